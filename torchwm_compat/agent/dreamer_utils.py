"""torchwm's helper functions under its names, over jaxdreamer's mathematics, for numpy, JAX and torch arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdreamer
from torchwm_compat.aliases import public as __getattr__  # noqa: F401 - torchwm's module also has Logger and preprocess_obs
from torchwm_compat.arrays import answer_like, as_jax


def symlog(x: Any) -> Any:
    """``sign(x) ln(1 + |x|)``."""
    return answer_like(x)(jaxdreamer.symlog(as_jax(x)))


def symexp(x: Any) -> Any:
    """``sign(x) (exp(|x|) - 1)``, the inverse of :func:`symlog`."""
    return answer_like(x)(jaxdreamer.symexp(as_jax(x)))


def compute_return(rewards: Any, values: Any, discounts: Any, td_lam: float, last_value: Any) -> Any:
    """lambda-returns of imagined sequences [K, ...], bootstrapped with ``last_value`` [...]."""
    reward, value, discount, last = (as_jax(x) for x in (rewards, values, discounts, last_value))
    beyond = jnp.zeros_like(reward[:1])  # of the last state only the value counts
    returns = jaxdreamer.lambda_return(
        reward=jnp.concatenate([reward, beyond]),
        value=jnp.concatenate([value, last[None]]),
        discount=jnp.concatenate([discount, beyond]),
        td_lambda=float(td_lam),
    )
    return answer_like(rewards, values, discounts, last_value)(returns)


class TwoHotEncoder:
    """Numbers in symlog space as weights on the two nearest of evenly spaced buckets, and logits back to numbers."""

    def __init__(self, num_buckets: int = 255, symlog_range: float = 10.0) -> None:
        self.num_buckets, self.symlog_range = int(num_buckets), float(symlog_range)
        self.bucket_centers = np.linspace(-self.symlog_range, self.symlog_range, self.num_buckets, dtype=np.float32)

    def encode(self, target: Any) -> Any:
        """[...] in symlog space to weights [..., num_buckets]."""
        return answer_like(target)(jaxdreamer.two_hot(as_jax(target), jnp.asarray(self.bucket_centers)))

    def decode(self, logits: Any) -> Any:
        """[..., num_buckets] to numbers [..., 1], out of symlog space."""
        weights = jax.nn.softmax(as_jax(logits), axis=-1)
        return answer_like(logits)(jaxdreamer.symexp((weights * self.bucket_centers).sum(-1, keepdims=True)))

    def to(self, device: Any) -> TwoHotEncoder:
        """Itself: it answers where it is asked."""
        return self


def get_parameters(modules: Iterable[Any]) -> list[Any]:
    """The parameters of torch modules, one after another; views of an agent's networks have none."""
    return [parameter for module in modules if hasattr(module, "parameters") for parameter in module.parameters()]


class FreezeParameters:
    """Within it no gradients are computed for torch modules' parameters; nests, and restores what was. Views have none."""

    def __init__(self, modules: Iterable[Any]) -> None:
        self.modules = list(modules)
        self._before: list[list[bool]] = []

    def __enter__(self) -> None:
        parameters = get_parameters(self.modules)
        self._before.append([parameter.requires_grad for parameter in parameters])
        for parameter in parameters:
            parameter.requires_grad = False

    def __exit__(self, *_: object) -> None:
        for parameter, before in zip(get_parameters(self.modules), self._before.pop()):
            parameter.requires_grad = before
