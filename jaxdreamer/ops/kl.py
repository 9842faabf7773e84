"""The KL term of the world-model loss: free nats and balancing."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.ops.distributions import Categoricals, Normal, OneHot, stop_gradient


def kl_divergence(p: Normal | OneHot | Categoricals, q: Normal | OneHot | Categoricals) -> Array:
    """``KL(p || q) = E_p[log p - log q]`` in nats, in closed form, summed over the event.

    Args:
        p: a :class:`Normal`, :class:`OneHot` or :class:`Categoricals`.
        q: one of the same kind and shape.

    Returns:
        float32 [...], the batch shape.

    Raises:
        TypeError: the two are of different kinds, or of one without a closed form.
        ValueError: their event shapes differ.
    """
    if type(p) is not type(q) or not isinstance(p, Normal | OneHot | Categoricals):
        raise TypeError(
            "kl_divergence: both must be Normal, both OneHot or both Categoricals, "
            f"found {type(p).__name__} and {type(q).__name__}"
        )
    other: Any = q  # of p's kind, as just checked
    return p.kl(other)


def free_nats(kl: Array, nats: float | Array, per_element: bool = False, across: Across = ALONE) -> Array:
    """Do not press the KL below ``nats``: there its gradient is zero.

    ``max(mean(kl), nats)``: mean first, then the maximum, as V1 and V2 do it. With ``per_element``:
    ``mean(max(kl, nats))``, as V3 does, which frees every single state.

    Args:
        kl: float [...], summed over the event.
        nats: >= 0.
        per_element: clip before the mean.
        across: who has the other parts of the batch.

    Returns:
        float32 [].

    Source: DreamerV1 (arXiv:1912.01603) appendix A, 3 free nats.
    """
    kl, nats = jnp.asarray(kl, jnp.float32), jnp.asarray(nats, jnp.float32)
    if per_element:
        return jnp.mean(jnp.maximum(kl, nats))
    return across.at_least(jnp.mean(kl), nats)


_free_nats = free_nats  # balanced_kl has an argument of this name


def balanced_kl(
    posterior: Normal | OneHot | Categoricals,
    prior: Normal | OneHot | Categoricals,
    *,
    balance: float | None,
    free_nats: float | Array,
    per_element: bool = False,
    across: Across = ALONE,
) -> tuple[Array, Array]:
    """The KL loss between what is seen and what was foreseen, and the plain KL for the log.

    ``balance`` None (V1): ``free(KL(post || prior))``; both sides get the full gradient.
    ``balance`` b (V2, 0.8): ``b * free(KL(sg(post) || prior)) + (1 - b) * free(KL(post || sg(prior)))``. Both terms
    have the same value, so the loss is that of V1; of its gradient the prior gets the share ``b`` and the posterior
    ``1 - b``. With 0.8 the **prior** is trained faster, and the posterior is not dragged to a prior that knows nothing
    yet. Below the free nats neither gets any.

    Args:
        posterior: q(z | deter, observation).
        prior: p(z | deter).
        balance: the prior's share of the gradient in [0, 1], or None.
        free_nats: see :func:`free_nats`.
        per_element, across: see :func:`free_nats`.

    Returns:
        ``(loss, mean KL)``, both float32 []. The second is without free nats.

    Source: DreamerV1 (arXiv:1912.01603) equation 10; DreamerV2 (arXiv:2010.02193) algorithm 2.
    """
    kl = kl_divergence(posterior, prior)
    if balance is None:
        return _free_nats(kl, free_nats, per_element, across), jnp.mean(kl)
    train_prior = _free_nats(kl_divergence(stop_gradient(posterior), prior), free_nats, per_element, across)
    train_posterior = _free_nats(kl_divergence(posterior, stop_gradient(prior)), free_nats, per_element, across)
    return balance * train_prior + (1.0 - balance) * train_posterior, jnp.mean(kl)
