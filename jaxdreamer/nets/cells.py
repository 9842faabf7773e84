"""Recurrent state-space model: the cells and the layers around them, for Gaussian and categorical latents."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.config import ModelConfig
from jaxdreamer.nets.layers import (
    MLP,
    BlockDense,
    Dense,
    RMSNorm,
    Style,
    glorot_uniform,
    in_blocks,
    matmul,
    normalize,
    side_by_side,
    style_of,
)
from jaxdreamer.ops.activations import recomputed
from jaxdreamer.ops.discrete import unimix
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
        from_x = matmul(x, kernel_x, self.dtype) + bias_x
        from_h = matmul(h, kernel_h, self.dtype) + bias_h
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


class BlockGRUCell(nn.Module):
    """V3's cell: a GRU whose products are block-diagonal, so that its width is cheap; RMS norm before, none on the gates.

    ``x = [f(W_0 h), f(W_1 s), f(W_2 a)]`` with ``f = act(norm(.))``; each of the G blocks reads ``[h_g, x]``:
    ``y = f(V [h_g, x])``, ``r, c, u = split(U_g y_g)``, ``h' = u' tanh(sigmoid(r) c) + (1 - u') h`` with
    ``u' = sigmoid(u - 1)``. The norm of y goes over all blocks.

    Source: the authors' code of DreamerV3 (arXiv:2301.04104), 2024.
    """

    size: int
    hidden: int
    blocks: int
    style: Style

    @nn.compact
    def __call__(self, h: Array, stoch: Array, action: Array) -> Array:
        """[..., D], [..., S] and [..., A] to [..., D]."""
        inputs = {"deter": h, "stoch": stoch, "action": action}
        x = jnp.concatenate([MLP(1, self.hidden, self.style, name=f"from_{k}")(v) for k, v in inputs.items()], axis=-1)
        make = {"kernel_init": self.style.kernel_init(), "dtype": self.style.dtype}
        h = in_blocks(h, self.blocks)
        (y,) = BlockDense(self.size, **make, name="hidden")(h, x)
        y = self.style.activate(RMSNorm(name="norm")(side_by_side(y)))
        reset, candidate, update = BlockDense(3 * self.size, **make, parts=3, name="gates")(in_blocks(y, self.blocks))
        return side_by_side(_gated(h, reset, candidate, update))


@recomputed
def _gated(h: Array, reset: Array, candidate: Array, update: Array) -> Array:
    update = jax.nn.sigmoid(update - 1)
    return update * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1 - update) * h


CELLS = {"gru": GRUCell, "layer_norm_gru": LayerNormGRUCell}


class RSSM(nn.Module):
    """The layers of the recurrent state-space model; the scans over them are in ``agent/rssm.py``.

    The posterior's first layer reads ``[deter, embed]`` through one kernel, applied in two halves: the embedding's half
    does not depend on the recurrence, so :meth:`embed_part` is computed for all steps in one product.
    """

    config: ModelConfig
    embed_size: int

    def setup(self) -> None:
        """Name the layers."""
        config, style = self.config, style_of(self.config, inner=True)
        self.style = style
        self.recurrent: Any
        if config.cell == "block_gru":
            self.recurrent = BlockGRUCell(config.deter_size, config.hidden_size, config.blocks, style)
        else:
            self.input = style.dense(config.hidden_size)
            self.recurrent = CELLS[config.cell](config.deter_size, dtype=style.dtype)
        for index in range(config.prior_layers):
            setattr(self, f"prior_hidden{_suffix(index)}", style.dense(config.hidden_size))
            setattr(self, f"prior_norm{_suffix(index)}", normalize(style.norm))
        self.prior_out = style.dense(self._width)
        shape = (config.deter_size + self.embed_size, config.hidden_size)
        self.posterior_kernel = self.param("posterior_kernel", style.kernel_init(), shape)
        self.posterior_bias = self.param("posterior_bias", nn.initializers.zeros, shape[1:])
        self.posterior_norm = normalize(style.norm)
        self.posterior_out = style.dense(self._width)

    def __call__(self, latent: Latent, action: Array, embed: Array) -> tuple[Any, Any]:
        """Posterior and prior after one step: touches every layer, for initialisation."""
        deter = self.step(latent, action)
        return self.posterior(deter, self.embed_part(embed)), self.prior(deter)

    def step(self, latent: Latent, action: Array) -> Array:
        """h_t = f(h_{t-1}, s_{t-1}, a_{t-1}): latent and action [..., A] to deter [..., D]."""
        if self.config.cell == "block_gru":
            # V3's Gaussian actions reach beyond [-1, 1]; the model sees what the environment does.
            action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
            return self.recurrent(latent.deter, latent.stoch, action).astype(jnp.float32)
        x = jnp.concatenate([latent.stoch, action], axis=-1)
        return self.recurrent(latent.deter, self.style.activate(self.input(x))).astype(jnp.float32)

    def prior(self, deter: Array) -> Normal | Categoricals:
        """p(s_t | h_t)."""
        x = deter
        for index in range(self.config.prior_layers):
            hidden, norm = (getattr(self, f"prior_{name}{_suffix(index)}") for name in ("hidden", "norm"))
            x = self.style.activate(norm(hidden(x)))
        return self._latent(self.prior_out(x))

    def embed_part(self, embed: Array) -> Array:
        """The embedding's half of the posterior's first layer, bias included: [..., E] to [..., hidden]."""
        return matmul(embed, self.posterior_kernel[self.config.deter_size :], self.style.dtype) + self.posterior_bias

    def posterior(self, deter: Array, embed_part: Array) -> Normal | Categoricals:
        """q(s_t | h_t, x_t), from what :meth:`embed_part` made of x_t."""
        x = matmul(deter, self.posterior_kernel[: self.config.deter_size], self.style.dtype) + embed_part
        return self._latent(self.posterior_out(self.style.activate(self.posterior_norm(x))))

    @nn.nowrap
    def initial(self, shape: tuple[int, ...]) -> Latent:
        """Zeros of a batch shape."""
        stoch = jnp.zeros((*shape, self.config.stoch_size * max(self.config.classes, 1)))
        return Latent(deter=jnp.zeros((*shape, self.config.deter_size)), stoch=stoch)

    @nn.nowrap
    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Noise for one latent sample of a batch shape."""
        return self._latent(jnp.zeros((*shape, self._width))).noise(key)

    @property
    def _width(self) -> int:
        """Numbers that describe a latent's distribution: logits, or means and deviations."""
        return self.config.stoch_size * (self.config.classes or 2)

    @nn.nowrap
    def _latent(self, raw: Array) -> Normal | Categoricals:
        config = self.config
        if config.classes:
            logits = raw.reshape(*raw.shape[:-1], config.stoch_size, config.classes)
            return Categoricals(unimix(logits, config.unimix))
        mean, std = jnp.split(raw, 2, axis=-1)
        return Normal(mean, gaussian_std(std, config.gaussian_std))


def _suffix(index: int) -> str:
    return f"_{index}" if index else ""
