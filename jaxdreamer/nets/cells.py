"""Recurrent state-space model: the cells and the layers around them, for Gaussian and categorical latents."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.nets.layers import Dense, glorot_uniform
from jaxdreamer.ops.activations import activation
from jaxdreamer.ops.distributions import Categoricals, Normal
from jaxdreamer.ops.transforms import gaussian_std
from jaxdreamer.types import Array, Latent


class GRUCell(nn.Module):
    """V1's cell: a GRU whose reset gate acts after the recurrent product.

    ``r, z = sigmoid(W x + b + U h + c)``, ``n = tanh(W_n x + b_n + r * (U_n h + c_n))``, ``h' = (1 - z) n + z h``;
    x [..., X] and h [..., D] to h' [..., D]. The gates lie side by side as r, z, n in kernels [X, 3D] and [D, 3D], each
    with a bias: the layout of Keras' ``reset_after`` cell and of ``torch.nn.GRUCell``.
    """

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array, x: Array) -> Array:
        """One step."""
        kernel_x = self.param("kernel_x", glorot_uniform, (x.shape[-1], 3 * self.size))
        kernel_h = self.param("kernel_h", nn.initializers.orthogonal(), (self.size, 3 * self.size))
        bias_x = self.param("bias_x", nn.initializers.zeros, (3 * self.size,))
        bias_h = self.param("bias_h", nn.initializers.zeros, (3 * self.size,))
        from_x = _matmul(x, kernel_x, self.dtype) + bias_x
        from_h = _matmul(h, kernel_h, self.dtype) + bias_h
        gates = jax.nn.sigmoid(from_x[..., : 2 * self.size] + from_h[..., : 2 * self.size])
        reset, update = jnp.split(gates, 2, axis=-1)
        candidate = jnp.tanh(from_x[..., 2 * self.size :] + reset * from_h[..., 2 * self.size :])
        return (1 - update) * candidate + update * h


class LayerNormGRUCell(nn.Module):
    """V2's cell: one product for all gates, layer norm over them together.

    ``r, c, u = split(LayerNorm(W [x, h] + b))``, ``h' = u' tanh(sigmoid(r) c) + (1 - u') h`` with
    ``u' = sigmoid(u - 1)``: the reset gate scales the candidate before its tanh, and the update starts out slow.
    """

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array, x: Array) -> Array:
        """One step."""
        gates = Dense(3 * self.size, dtype=self.dtype, name="gates")(jnp.concatenate([x, h], axis=-1))
        gates = nn.LayerNorm(epsilon=1e-3, dtype=jnp.float32, name="norm")(gates)
        reset, candidate, update = jnp.split(gates, 3, axis=-1)
        candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
        update = jax.nn.sigmoid(update - 1)
        return update * candidate + (1 - update) * h


CELLS = {"gru": GRUCell, "layer_norm_gru": LayerNormGRUCell}


class RSSM(nn.Module):
    """The layers of the recurrent state-space model; the scans over them are in ``agent/rssm.py``.

    The posterior's first layer reads ``[deter, embed]`` through one kernel, applied in two halves: the embedding's half
    does not depend on the recurrence, so :meth:`embed_part` is computed for all steps in one product.
    """

    stoch_size: int
    classes: int
    deter_size: int
    hidden_size: int
    embed_size: int
    cell: str = "gru"
    std: Literal["softplus", "sigmoid2"] = "softplus"
    act: str = "elu"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Name the layers."""
        width = self.stoch_size * self.classes if self.classes else 2 * self.stoch_size
        self.input = Dense(self.hidden_size, dtype=self.dtype)
        self.recurrent = CELLS[self.cell](self.deter_size, dtype=self.dtype)
        self.prior_hidden = Dense(self.hidden_size, dtype=self.dtype)
        self.prior_out = Dense(width, dtype=self.dtype)
        self.posterior_kernel = self.param(
            "posterior_kernel", glorot_uniform, (self.deter_size + self.embed_size, self.hidden_size)
        )
        self.posterior_bias = self.param("posterior_bias", nn.initializers.zeros, (self.hidden_size,))
        self.posterior_out = Dense(width, dtype=self.dtype)

    def __call__(self, latent: Latent, action: Array, embed: Array) -> tuple[Any, Any]:
        """Posterior and prior after one step: touches every layer, for initialisation."""
        deter = self.step(latent, action)
        return self.posterior(deter, self.embed_part(embed)), self.prior(deter)

    def step(self, latent: Latent, action: Array) -> Array:
        """h_t = f(h_{t-1}, s_{t-1}, a_{t-1}): latent and action [..., A] to deter [..., D]."""
        x = jnp.concatenate([latent.stoch, action], axis=-1)
        return self.recurrent(latent.deter, activation(self.act)(self.input(x))).astype(jnp.float32)

    def prior(self, deter: Array) -> Normal | Categoricals:
        """p(s_t | h_t)."""
        return self._latent(self.prior_out(activation(self.act)(self.prior_hidden(deter))))

    def embed_part(self, embed: Array) -> Array:
        """The embedding's half of the posterior's first layer, bias included: [..., E] to [..., hidden]."""
        return _matmul(embed, self.posterior_kernel[self.deter_size :], self.dtype) + self.posterior_bias

    def posterior(self, deter: Array, embed_part: Array) -> Normal | Categoricals:
        """q(s_t | h_t, x_t), from what :meth:`embed_part` made of x_t."""
        x = _matmul(deter, self.posterior_kernel[: self.deter_size], self.dtype) + embed_part
        return self._latent(self.posterior_out(activation(self.act)(x)))

    def _latent(self, raw: Array) -> Normal | Categoricals:
        raw = raw.astype(jnp.float32)
        if self.classes:
            return Categoricals(raw.reshape(*raw.shape[:-1], self.stoch_size, self.classes))
        mean, std = jnp.split(raw, 2, axis=-1)
        return Normal(mean, gaussian_std(std, self.std))


def _matmul(x: Array, kernel: Array, dtype: Any) -> Array:
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)
