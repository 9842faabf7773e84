"""Distributions over real numbers. Import them from :mod:`jaxdreamer.ops.distributions`, which says what they share."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtr, ndtri

from jaxdreamer.ops.distribution import Distribution, distribution, f32
from jaxdreamer.ops.transforms import gaussian_std, straight_through_clip

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# The largest float32 below 1 is 1 - 6e-8; atanh of it is 8.7, and its derivative there is finite.
_TANH_LIMIT = 0.99999997
_TRUNCATED_LIMIT = 1.0 - 1e-6


def _normal_log_prob(x: Array, loc: Array, std: Array) -> Array:
    """``-((x - loc) / std)^2 / 2 - log std - log(2 pi) / 2``, elementwise."""
    return -0.5 * jnp.square((x - loc) / std) - jnp.log(std) - _HALF_LOG_2PI


class _Gaussian(Distribution):
    loc: Array

    def noise(self, key: Array) -> Array:
        """Standard normal noise for one sample, float32, the shape of loc."""
        return jax.random.normal(key, self.loc.shape, jnp.float32)


class _Vectors(_Gaussian):
    @property
    def size(self) -> int:
        """Width n of a sample."""
        return self.loc.shape[-1]


@distribution
class Normal(_Vectors):
    """Vectors of independent Gaussians; the last axis is the event and is summed in log_prob, entropy and kl.

    The first field is called ``loc`` because ``mean`` is a method, here as in every distribution.
    """

    loc: Array  # float [..., n]
    std: Array  # float [..., n], > 0

    def from_noise(self, noise: Array) -> Array:
        """``loc + std * noise``, float32 [..., n]; gradients reach loc and std."""
        return f32(self.loc) + f32(self.std) * f32(noise)

    def mean(self) -> Array:
        """``loc``, float32 [..., n]."""
        return f32(self.loc)

    def log_prob(self, x: Array) -> Array:
        """Log-density at x [..., n], constant included, summed: float32 [...]."""
        return jnp.sum(_normal_log_prob(f32(x), f32(self.loc), f32(self.std)), axis=-1)

    def entropy(self, key: Array | None = None) -> Array:
        """``sum(log std + log(2 pi e) / 2)``, float32 [...]."""
        return jnp.sum(jnp.log(f32(self.std)) + (_HALF_LOG_2PI + 0.5), axis=-1)

    def kl(self, other: Normal) -> Array:
        """``sum(log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2)``, float32 [...]; p is self, q other."""
        if self.size != other.size:
            raise ValueError(f"Normal.kl: widths differ, found {self.size} and {other.size}")
        std, other_std = f32(self.std), f32(other.std)
        ratio = std / other_std
        distance = (f32(self.loc) - f32(other.loc)) / other_std
        return jnp.sum(0.5 * (jnp.square(ratio) + jnp.square(distance) - 1.0) - jnp.log(ratio), axis=-1)


@distribution
class UnitNormal(_Gaussian):
    """Gaussians of standard deviation 1 around a prediction: a squared error that is a likelihood.

    Serves scalars (``event_ndim`` 0), vectors (1) and images (3): the caller says how many last axes are one event.
    """

    loc: Array  # float, any shape

    def from_noise(self, noise: Array) -> Array:
        """``loc + noise``, float32."""
        return f32(self.loc) + f32(noise)

    def mean(self) -> Array:
        """``loc``, float32."""
        return f32(self.loc)

    def log_prob(self, x: Array, event_ndim: int = 0) -> Array:
        """``-(x - loc)^2 / 2 - log(2 pi) / 2``, summed over the last ``event_ndim`` axes.

        Raises ValueError where x has not exactly the shape of loc: [B] against [B, 1] would broadcast to [B, B] unseen.
        """
        x = f32(x)
        if x.shape != self.loc.shape:
            raise ValueError(f"UnitNormal.log_prob: x has shape {x.shape}, the prediction {self.loc.shape}")
        elements = -0.5 * jnp.square(x - f32(self.loc)) - _HALF_LOG_2PI
        return jnp.sum(elements, axis=tuple(range(-event_ndim, 0)))

    def entropy(self, key: Array | None = None, event_ndim: int = 0) -> Array:
        """``log(2 pi e) / 2`` for each number, summed over the last ``event_ndim`` axes; a constant."""
        elements = jnp.full(self.loc.shape, _HALF_LOG_2PI + 0.5, jnp.float32)
        return jnp.sum(elements, axis=tuple(range(-event_ndim, 0)))


@distribution
class TanhNormal(_Vectors):
    """``tanh`` of a Gaussian vector, in (-1, 1)^n; the last axis is summed in log_prob and entropy. V1's actor."""

    loc: Array  # float [..., n], of the Gaussian before tanh
    std: Array  # float [..., n], > 0, of the Gaussian before tanh

    def from_noise(self, noise: Array) -> Array:
        """``tanh(loc + std * noise)``, float32 [..., n] in [-1, 1]; gradients reach loc and std."""
        return jnp.tanh(f32(self.loc) + f32(self.std) * f32(noise))

    def _log_prob_before_tanh(self, x: Array) -> Array:
        """``log N(x) - log |dy/dx|`` with ``log |dy/dx| = log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x))``.

        In the last form nothing cancels: ``1 - tanh(x)^2`` itself is 0 in float32 from |x| = 9 on.
        """
        log_slope = 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))
        return jnp.sum(_normal_log_prob(x, f32(self.loc), f32(self.std)) - log_slope, axis=-1)

    def sample_and_log_prob(self, key: Array) -> tuple[Array, Array]:
        """A sample [..., n] and its log-density [...], exact however close to +-1 the sample comes; both float32."""
        x = f32(self.loc) + f32(self.std) * self.noise(key)
        return jnp.tanh(x), self._log_prob_before_tanh(x)

    def log_prob(self, y: Array) -> Array:
        """Log-density at y [..., n] in [-1, 1], summed: float32 [...].

        y is first clipped to +-0.99999997, so that +-1 itself, which tanh rounds to, has a finite value and gradient.
        """
        return self._log_prob_before_tanh(jnp.arctanh(jnp.clip(f32(y), -_TANH_LIMIT, _TANH_LIMIT)))

    def mode(self, key: Array | None = None) -> Array:
        """``tanh(loc)``, float32 [..., n]: the median. The density may well peak elsewhere, see :meth:`best_of`."""
        return jnp.tanh(f32(self.loc))

    def best_of(self, key: Array, samples: int = 100) -> Array:
        """The sample of highest density among many, chosen for each vector: float32 [..., n].

        This is how V1 acts in evaluation (the authors' code; no closed form exists for the mode of a wide TanhNormal).
        Densities are those of :meth:`log_prob`, which clips: samples that are rounded to +-1 score alike.
        """
        return self.best_of_noise(jax.vmap(self.noise)(jax.random.split(key, samples)))

    def best_of_noise(self, noise: Array) -> Array:
        """:meth:`best_of`, from the noise [samples, ..., n] of its samples: float32 [..., n]."""
        candidates = jax.vmap(self.from_noise)(noise)
        best = jnp.argmax(jax.vmap(self.log_prob)(candidates), axis=0)[None, ..., None]
        return jnp.take_along_axis(candidates, best, axis=0)[0]

    def mean(self) -> Array:
        """``E[tanh(loc + std * e)]`` by quadrature over e on [-6, 6], float32 [..., n].

        The trapezoid rule converges exponentially here: the error stays below 1e-4 up to a std of 10.
        """
        points = jnp.linspace(-6.0, 6.0, 101, dtype=jnp.float32)
        weights = jax.nn.softmax(-0.5 * jnp.square(points)).reshape((-1,) + (1,) * self.loc.ndim)
        values = jax.vmap(lambda point: jnp.tanh(f32(self.loc) + f32(self.std) * point))(points)
        return jnp.sum(jnp.broadcast_to(weights, values.shape) * values, axis=0)

    def entropy(self, key: Array | None = None, samples: int = 1) -> Array:
        """``-mean(log p(y))`` over reparametrised samples, differentiable: float32 [...]. ValueError without a key."""
        if key is None:
            raise ValueError("TanhNormal.entropy has no closed form and is estimated from samples: pass it a key")
        _, log_probs = jax.vmap(self.sample_and_log_prob)(jax.random.split(key, samples))
        return -jnp.mean(log_probs, axis=0)


def tanh_normal_from_raw(
    raw_mean: Array, raw_std: Array, mean_scale: float = 5.0, init_std: float = 5.0, min_std: float = 1e-4
) -> TanhNormal:
    """V1's actor from the outputs of its network, float [..., n] each.

    ``loc = mean_scale * tanh(raw_mean / mean_scale)``, ``std = softplus(raw_std + log(exp(init_std) - 1)) + min_std``:
    loc is kept where tanh still has a slope, and an output of zero means a std of ``init_std``.

    Source: DreamerV1 (arXiv:1912.01603) section 3, "action model"; the constants are those of the authors' code.
    """
    loc = mean_scale * jnp.tanh(f32(raw_mean) / mean_scale)
    std = jax.nn.softplus(f32(raw_std) + math.log(math.expm1(init_std))) + min_std
    return TanhNormal(loc, std)


@jax.custom_jvp
def _normal_quantile(p: Array) -> Array:
    """Inverse of the standard normal CDF, with the derivative in closed form instead of through its polynomials."""
    return ndtri(p)


@_normal_quantile.defjvp
def _normal_quantile_jvp(primals, tangents):
    z = _normal_quantile(primals[0])
    return z, tangents[0] * jnp.exp(0.5 * jnp.square(z) + _HALF_LOG_2PI)


def _pdf(z: Array) -> Array:
    return jnp.exp(-0.5 * jnp.square(z) - _HALF_LOG_2PI)


@distribution
class TruncatedNormal(_Vectors):
    """Vectors of Gaussians confined to [-1, 1]; the last axis is summed in log_prob and entropy. V2's continuous actor.

    With ``a = (-1 - loc) / std``, ``b = (1 - loc) / std`` and ``Z = cdf(b) - cdf(a)``. Made for loc in [-1, 1] and
    std in [0.1, 2.1], where Z is never below 0.32; there everything is good to float32.
    """

    loc: Array  # float [..., n] in [-1, 1], of the Gaussian before truncation
    std: Array  # float [..., n], > 0, of the Gaussian before truncation

    def _edges(self) -> tuple[Array, Array, Array, Array, Array]:
        """loc, std, a, b, Z."""
        loc, std = f32(self.loc), f32(self.std)
        a, b = (-1.0 - loc) / std, (1.0 - loc) / std
        return loc, std, a, b, ndtr(b) - ndtr(a)

    def noise(self, key: Array) -> Array:
        """Uniform noise in the open interval (0, 1) for one sample, float32 [..., n]."""
        # uniform() gives multiples of 2^-23 in [0, 1); half a step up, no end occurs and both tails are alike.
        return jax.random.uniform(key, self.loc.shape, jnp.float32) + 2.0**-24

    def from_noise(self, noise: Array) -> Array:
        """The quantile of the noise: ``x = loc + std * cdf^-1(cdf(a) + noise * Z)``, float32 [..., n] in +-(1 - 1e-6).

        Gradients reach loc and std, and pass the final clip straight through. The quantile is taken from the nearer
        tail: in the upper one ``cdf`` is within float32 of 1, and the sample would be coarse or infinite.
        """
        loc, std, a, b, mass = self._edges()
        u = jnp.clip(f32(noise), 2.0**-24, 1.0 - 2.0**-24)
        below = ndtr(a) + u * mass
        above = ndtr(-b) + (1.0 - u) * mass
        is_low = below < above
        z = _normal_quantile(jnp.where(is_low, below, above)) * jnp.where(is_low, 1.0, -1.0)
        return straight_through_clip(loc + std * z, -_TRUNCATED_LIMIT, _TRUNCATED_LIMIT)

    def as_if_unbounded(self, x: Array) -> Array:
        """A sample x [..., n] with the gradients of an unbounded Normal's: ``dx/dloc = 1``, ``dx/dstd = (x - loc) / std``.

        The exact ones, those of :meth:`from_noise`, are smaller: near a bound a sample hardly moves.
        Source: TensorFlow Probability's truncated normal, and so the authors' code of DreamerV2.
        """
        loc, std = f32(self.loc), f32(self.std)
        linear = loc + std * lax.stop_gradient((x - loc) / std)
        return lax.stop_gradient(x) + (linear - lax.stop_gradient(linear))

    def mode(self, key: Array | None = None) -> Array:
        """``clip(loc)`` to +-(1 - 1e-6), float32 [..., n]."""
        return jnp.clip(f32(self.loc), -_TRUNCATED_LIMIT, _TRUNCATED_LIMIT)

    def mean(self) -> Array:
        """``loc + std * (pdf(a) - pdf(b)) / Z``, float32 [..., n]."""
        loc, std, a, b, mass = self._edges()
        return loc + std * (_pdf(a) - _pdf(b)) / mass

    def log_prob(self, x: Array) -> Array:
        """``sum(log N(x; loc, std) - log Z)``, float32 [...]; minus infinity outside of [-1, 1]."""
        loc, std, _, _, mass = self._edges()
        x = f32(x)
        inside = _normal_log_prob(x, loc, std) - jnp.log(mass)
        return jnp.sum(jnp.where(jnp.abs(x) <= 1.0, inside, -jnp.inf), axis=-1)

    def entropy(self, key: Array | None = None) -> Array:
        """``sum(log(sqrt(2 pi e) * std * Z) + (a pdf(a) - b pdf(b)) / (2 Z))``, float32 [...]."""
        _, std, a, b, mass = self._edges()
        elements = jnp.log(std * mass) + (_HALF_LOG_2PI + 0.5) + (a * _pdf(a) - b * _pdf(b)) / (2.0 * mass)
        return jnp.sum(elements, axis=-1)


def truncated_normal_from_raw(raw_mean: Array, raw_std: Array) -> TruncatedNormal:
    """V2's actor from the outputs of its network, float [..., n] each.

    ``loc = tanh(raw_mean)``, ``std = 2 * sigmoid(raw_std / 2) + 0.1``: in (0.1, 2.1), and 1.1 for an output of zero.

    Source: the authors' code of DreamerV2 (arXiv:2010.02193); the paper only names the distribution.
    """
    return TruncatedNormal(jnp.tanh(f32(raw_mean)), gaussian_std(raw_std, "sigmoid2"))


def bounded_normal_from_raw(raw_mean: Array, raw_std: Array, min_std: float = 0.1, max_std: float = 1.0) -> Normal:
    """V3's actor from the outputs of its network, float [..., n] each.

    ``loc = tanh(raw_mean)``, ``std = (max_std - min_std) sigmoid(raw_std + 2) + min_std``: 0.89 for an output of zero.
    Samples may lie beyond [-1, 1]; whoever acts clips them.

    Source: the authors' code of DreamerV3 (arXiv:2301.04104), 2024.
    """
    std = (max_std - min_std) * jax.nn.sigmoid(f32(raw_std) + 2.0) + min_std
    return Normal(jnp.tanh(f32(raw_mean)), std)
