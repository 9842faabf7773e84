"""Distributions over choices. Import them from :mod:`jaxdreamer.ops.distributions`, which says what they share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdreamer.ops.distribution import Distribution, distribution, f32
from jaxdreamer.ops.transforms import symexp, symlog, two_hot


def _one_hot_argmax(scores: Array) -> Array:
    return jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=jnp.float32)


def _straight_through(one_hot: Array, logits: Array) -> Array:
    """``one_hot + probs - sg(probs)``: the value is the choice, the gradient that of the probabilities."""
    probs = jax.nn.softmax(logits, axis=-1)
    # The difference first: it is exactly zero, so the value stays exactly one-hot.
    return one_hot + (probs - lax.stop_gradient(probs))


def unimix(logits: Array, amount: float) -> Array:
    """Mix the choice with a uniform one: ``log((1 - amount) softmax(logits) + amount / C)``, float32 [..., C].

    No choice is then ever ruled out, which keeps KL and gradients bounded. ``amount`` in [0, 1); 0 gives the logits back.

    Source: DreamerV3 (arXiv:2301.04104), 1 percent.
    """
    if not amount:
        return logits
    return jnp.log((1.0 - amount) * jax.nn.softmax(f32(logits), axis=-1) + amount / logits.shape[-1])


def _categorical_entropy(logits: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def _categorical_kl(logits: Array, other: Array) -> Array:
    log_p, log_q = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(other, axis=-1)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


class _Choice(Distribution):
    logits: Array

    def noise(self, key: Array) -> Array:
        """Gumbel noise for one sample, float32, the shape of logits."""
        return jax.random.gumbel(key, self.logits.shape, jnp.float32)


@distribution
class OneHot(_Choice):
    """One choice among C as a one-hot vector; the last axis is the event. Samples carry straight-through gradients."""

    logits: Array  # float [..., C], finite, need not be normalised

    @property
    def size(self) -> int:
        """Width C of a sample."""
        return self.logits.shape[-1]

    def from_noise(self, noise: Array) -> Array:
        """``onehot(argmax(logits + noise)) + probs - sg(probs)``, float32 [..., C], exactly one-hot in value."""
        logits = f32(self.logits)
        return _straight_through(_one_hot_argmax(logits + f32(noise)), logits)

    def mode(self, key: Array | None = None) -> Array:
        """The likeliest choice, one-hot float32 [..., C], without gradient."""
        return _one_hot_argmax(f32(self.logits))

    def mean(self) -> Array:
        """The probabilities, float32 [..., C]."""
        return jax.nn.softmax(f32(self.logits), axis=-1)

    def log_prob(self, x: Array) -> Array:
        """``sum_c x_c log p_c`` at a one-hot x [..., C], a constant: float32 [...]."""
        return jnp.sum(lax.stop_gradient(f32(x)) * jax.nn.log_softmax(f32(self.logits), axis=-1), axis=-1)

    def entropy(self, key: Array | None = None) -> Array:
        """``-sum_c p_c log p_c``, float32 [...] in [0, log C]."""
        return _categorical_entropy(f32(self.logits))

    def kl(self, other: OneHot) -> Array:
        """``sum_c p_c (log p_c - log q_c)``, float32 [...]; p is self, q other."""
        if self.size != other.size:
            raise ValueError(f"OneHot.kl: numbers of classes differ, found {self.size} and {other.size}")
        return _categorical_kl(f32(self.logits), f32(other.logits))


@distribution
class Categoricals(_Choice):
    """G independent choices among C, side by side in samples [..., G*C]; log_prob, entropy and kl sum over the groups.

    V2's latent (32 groups of 32). Source: DreamerV2 (arXiv:2010.02193) section 2.1 and algorithm 1.
    """

    logits: Array  # float [..., G, C], finite, need not be normalised

    @property
    def size(self) -> int:
        """Width G*C of a sample."""
        return self.logits.shape[-2] * self.logits.shape[-1]

    def _flat(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-2], self.size)

    def from_noise(self, noise: Array) -> Array:
        """``onehot(argmax(logits + noise)) + probs - sg(probs)`` in each group, float32 [..., G*C]."""
        logits = f32(self.logits)
        return self._flat(_straight_through(_one_hot_argmax(logits + f32(noise)), logits))

    def mode(self, key: Array | None = None) -> Array:
        """The likeliest choice of each group, float32 [..., G*C], without gradient."""
        return self._flat(_one_hot_argmax(f32(self.logits)))

    def mean(self) -> Array:
        """The probabilities, float32 [..., G*C]."""
        return self._flat(jax.nn.softmax(f32(self.logits), axis=-1))

    def log_prob(self, x: Array) -> Array:
        """``sum_g sum_c x_gc log p_gc`` at one-hot groups x [..., G*C]: float32 [...]."""
        log_probs = self._flat(jax.nn.log_softmax(f32(self.logits), axis=-1))
        return jnp.sum(f32(x) * log_probs, axis=-1)

    def entropy(self, key: Array | None = None) -> Array:
        """``-sum_g sum_c p_gc log p_gc``, float32 [...] in [0, G log C]."""
        return jnp.sum(_categorical_entropy(f32(self.logits)), axis=-1)

    def kl(self, other: Categoricals) -> Array:
        """``sum_g sum_c p_gc (log p_gc - log q_gc)``, float32 [...]; p is self, q other."""
        if self.logits.shape[-2:] != other.logits.shape[-2:]:
            found = f"{self.logits.shape[-2:]} and {other.logits.shape[-2:]}"
            raise ValueError(f"Categoricals.kl: numbers of groups or classes differ, found {found}")
        return jnp.sum(_categorical_kl(f32(self.logits), f32(other.logits)), axis=-1)


@distribution
class Bernoulli(Distribution):
    """Yes or no, for each number by itself: nothing is summed. The head that predicts whether the task continues."""

    logits: Array  # float, any shape

    def noise(self, key: Array) -> Array:
        """Logistic noise for one sample, float32, the shape of logits."""
        return jax.random.logistic(key, self.logits.shape, jnp.float32)

    def from_noise(self, noise: Array) -> Array:
        """``1 if logits + noise > 0 else 0``, float32, without gradient."""
        return (f32(self.logits) + f32(noise) > 0.0).astype(jnp.float32)

    def mode(self, key: Array | None = None) -> Array:
        """``round(mean)``: 1.0 where the logit is positive, else 0.0; without gradient."""
        return (f32(self.logits) > 0.0).astype(jnp.float32)

    def mean(self) -> Array:
        """``sigmoid(logits)``, float32."""
        return jax.nn.sigmoid(f32(self.logits))

    def log_prob(self, x: Array) -> Array:
        """``x log p + (1 - x) log(1 - p)``, float32, the shape of logits.

        x may be anything in [0, 1]: V1 and V2 train on the soft label ``discount * (1 - is_terminal)``.
        Raises ValueError where x has not exactly the shape of logits.
        """
        x, logits = f32(x), f32(self.logits)
        if x.shape != logits.shape:
            raise ValueError(f"Bernoulli.log_prob: x has shape {x.shape}, the logits {logits.shape}")
        return x * jax.nn.log_sigmoid(logits) + (1.0 - x) * jax.nn.log_sigmoid(-logits)

    def entropy(self, key: Array | None = None) -> Array:
        """``-p log p - (1 - p) log(1 - p)``, float32 in [0, log 2], the shape of logits."""
        return -self.log_prob(self.mean())


class _Binned(_Choice):
    """A real number as a categorical over bins: the mean is a weighted sum of the bins, and the mode is the mean."""

    bins: Array

    def from_noise(self, noise: Array) -> Array:
        """``bins[argmax(logits + noise)]``, float32 [...], without gradient."""
        return f32(self.bins)[jnp.argmax(f32(self.logits) + f32(noise), axis=-1)]

    def mean(self) -> Array:
        """``sum_i p_i bins_i``, float32 [...]; exactly 0 for zero logits and symmetric bins.

        Added up in pairs from both ends, ``p b + p' b' = ((p' - p)(b' - b) + (p' + p)(b' + b)) / 2``: what cancels on
        paper then cancels in floating point too, whatever the compiler fuses.
        """
        probs, bins = jax.nn.softmax(f32(self.logits), axis=-1), f32(self.bins)
        half = bins.shape[-1] // 2
        low, high = probs[..., :half], probs[..., ::-1][..., :half]
        bins_low = jnp.broadcast_to(bins[:half], low.shape)
        bins_high = jnp.broadcast_to(bins[::-1][:half], low.shape)
        pairs = 0.5 * ((high - low) * (bins_high - bins_low) + (high + low) * (bins_high + bins_low))
        middle = probs[..., half] * bins[half] if bins.shape[-1] % 2 else 0.0
        return jnp.sum(pairs, axis=-1) + middle

    def log_prob(self, x: Array) -> Array:
        """``sum_i twohot(x)_i log p_i`` at x [...]: float32 [...]. A cross-entropy, not a density.

        Raises ValueError where x has not the shape of the prediction.
        """
        x, shape = f32(x), self.logits.shape[:-1]
        if x.shape != shape:
            raise ValueError(f"{type(self).__name__}.log_prob: x has shape {x.shape}, the prediction {shape}")
        return jnp.sum(two_hot(x, self.bins) * jax.nn.log_softmax(f32(self.logits), axis=-1), axis=-1)

    def entropy(self, key: Array | None = None) -> Array:
        """``-sum_i p_i log p_i`` of the bins, float32 [...] in [0, log K]."""
        return _categorical_entropy(f32(self.logits))


@distribution
class SymexpTwoHot(_Binned):
    """A real number as a categorical over bins that lie ever further apart, in its own units.

    Predictions average the bins themselves and targets are interpolated between them, where :class:`TwoHot` does both in
    symlog space. A prediction is then the mean of the targets, whatever their spread.

    Source: DreamerV3 (arXiv:2301.04104v2), with the bins of :func:`symexp_bins`.
    """

    logits: Array  # float [..., K]
    bins: Array  # float [K], ascending; a constant, not to be stacked by scan or mapped by vmap


@distribution
class TwoHot(_Binned):
    """A real number as a categorical over bins in symlog space: a head for rewards and values of unknown scale.

    Source: the first DreamerV3 (arXiv:2301.04104v1); an option for V1 and V2. See :class:`SymexpTwoHot`.
    """

    logits: Array  # float [..., K]
    bins: Array  # float [K], ascending, in symlog space; a constant, not to be stacked by scan or mapped by vmap

    def from_noise(self, noise: Array) -> Array:
        """``symexp(bins[argmax(logits + noise)])``, float32 [...], without gradient."""
        return symexp(super().from_noise(noise))

    def mean(self) -> Array:
        """``symexp(sum_i p_i bins_i)``, float32 [...]; exactly 0 for zero logits and symmetric bins."""
        return symexp(super().mean())

    def log_prob(self, x: Array) -> Array:
        """``sum_i twohot(symlog(x))_i log p_i`` at x [...]: float32 [...]. A cross-entropy, not a density."""
        return super().log_prob(symlog(f32(x)))
