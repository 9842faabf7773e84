"""Strided and transposed convolutions, NHWC, that are fast on every platform.

XLA's own convolutions are fast on GPU and TPU; on CPU their strided gradients and dilated forms run five to ten times
slower than PyTorch, while its matrix products are fast. So both functions here choose their lowering per platform:
products on CPU, ``lax.conv_general_dilated`` elsewhere.

A strided convolution, its transpose and their gradients are three bilinear maps between a *big* grid [N, H, W, B] and a
*small* one [N, h, w, S], with a kernel [kh, kw, B, S] and H = (h - 1) * r + kh for stride r:

    correlate    small[i, j, s]     = sum_abc  big[i*r + a, j*r + b, c] * kernel[a, b, c, s]
    spread       big[i*r+a, j*r+b]  = sum_ijs  small[i, j, s] * kernel[a, b, :, s]
    kernel_grad  kernel[a, b, c, s] = sum_nij  big[i*r + a, j*r + b, c] * small[i, j, s]

The convolution is ``correlate``, its gradients ``spread`` and ``kernel_grad``; the transposed convolution is
``spread``, its gradients ``correlate`` and ``kernel_grad``. Each map has two forms as matrix products:

    windows  one row of kh*kw*B numbers for each small position
    blocks   one row of r*r*B numbers for each r x r block of the big grid, met by p*q small positions (p = ceil(kh/r))

and the form whose intermediate is smaller was the faster one in nearly every layer of Dreamer, never far behind. On CPU,
frames are taken a cacheful at a time, with bias, activation and the activation's slope inside that loop: values before
the activation are then never kept, a quarter of the temporary memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.ops.activations import BY_RESULT
from jaxdreamer.ops.frames import from_bits, map_frames, sum_frames, to_bits
from jaxdreamer.types import Array

_DIMS = ("NHWC", "HWIO", "NHWC")
_plainly = ContextVar("plainly", default=False)


@contextmanager
def in_plain_form() -> Iterator[None]:
    """What is traced in this block has XLA's own convolutions on every platform.

    For programs that leave JAX: ONNX knows no platforms to choose by, and a batch of any size cannot be cut into cachefuls.
    """
    token = _plainly.set(True)
    try:
        yield
    finally:
        _plainly.reset(token)


def conv2d(x: Array, kernel: Array, bias: Array | None = None, *, stride: int, act: str = "linear") -> Array:
    """Convolve without padding: y[i, j, o] = act(bias[o] + sum_abc x[i*stride+a, j*stride+b, c] * kernel[a, b, c, o]).

    ``x`` is [..., H, W, Cin] with any leading axes, ``kernel`` [kh, kw, Cin, Cout], ``bias`` [Cout], ``act`` a key of
    ``BY_RESULT``; the result is [..., H', W', Cout] with H' = (H - kh) // stride + 1, summed in float32, in x's dtype.
    Differentiable once, in reverse. Raises ValueError where shapes or dtypes do not fit.
    """
    _check("conv2d", x, kernel, stride, act)
    if x.shape[-3] < kernel.shape[0] or x.shape[-2] < kernel.shape[1]:
        raise ValueError(f"conv2d: a kernel of {kernel.shape[:2]} does not fit into an image of {x.shape[-3:-1]}")
    return _over_frames(_conv, x, kernel, bias, stride, act)


def conv2d_transpose(x: Array, kernel: Array, bias: Array | None = None, *, stride: int, act: str = "linear") -> Array:
    """Spread every input over an output window: y[i*stride + a, j*stride + b, o] += x[i, j, c] * kernel[a, b, c, o].

    ``x`` is [..., H, W, Cin] with any leading axes, ``kernel`` [kh, kw, Cin, Cout], ``bias`` [Cout], ``act`` a key of
    ``BY_RESULT`` applied last; the result is [..., H', W', Cout] with H' = (H - 1) * stride + kh, as
    ``torch.nn.ConvTranspose2d`` without padding, summed in float32, in x's dtype. Differentiable once, in reverse.
    Raises ValueError where shapes or dtypes do not fit.
    """
    _check("conv2d_transpose", x, kernel, stride, act)
    return _over_frames(_conv_transpose, x, kernel, bias, stride, act)


def _check(name: str, x: Array, kernel: Array, stride: int, act: str) -> None:
    if x.ndim < 3 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"{name}: wants x [..., H, W, Cin] and kernel [kh, kw, Cin, Cout], found {x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: cast x and kernel to one floating dtype, found {x.dtype} and {kernel.dtype}")
    if stride < 1:
        raise ValueError(f"{name}: stride must be at least 1, found {stride}")
    if act not in BY_RESULT:
        raise ValueError(f"{name}: unknown act {act!r}; there are: {', '.join(BY_RESULT)}")


def _over_frames(function, x: Array, kernel: Array, bias: Array | None, stride: int, act: str) -> Array:
    if bias is None:
        bias = jnp.zeros(kernel.shape[-1], jnp.float32)
    y = function(x.reshape(-1, *x.shape[-3:]), kernel, bias, stride, act)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


# Own gradients, for three reasons: residuals are the inputs and the result, never windows or values before the
# activation; each map picks its lowering by itself, so that no branch for another platform leaves residuals behind; and
# the transpose of a map is another of the three maps, in its fast form.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv(x: Array, kernel: Array, bias: Array, stride: int, act: str) -> Array:
    return _by_platform(_CORRELATE, (x,), kernel, stride, after=_finish(bias, act))


def _conv_fwd(x, kernel, bias, stride, act):
    y = _conv(x, kernel, bias, stride, act)
    return y, (x, kernel, bias, y)


def _conv_bwd(stride, act, residuals, dy):
    x, kernel, bias, y = residuals
    before = _before_activation(act)
    dx = _by_platform(_SPREAD, (dy, y), kernel, stride, x.shape[1:3], before=before)
    dkernel = _by_platform(_KERNEL_GRAD, (x,), (dy, y), stride, kernel.shape[:2], before_small=before)
    return dx, dkernel.astype(kernel.dtype), _bias_grad(before, dy, y).astype(bias.dtype)


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv_transpose(x: Array, kernel: Array, bias: Array, stride: int, act: str) -> Array:
    size = tuple((n - 1) * stride + k for n, k in zip(x.shape[1:3], kernel.shape[:2]))
    return _by_platform(_SPREAD, (x,), kernel.swapaxes(2, 3), stride, size, after=_finish(bias, act))


def _conv_transpose_fwd(x, kernel, bias, stride, act):
    y = _conv_transpose(x, kernel, bias, stride, act)
    return y, (x, kernel, bias, y)


def _conv_transpose_bwd(stride, act, residuals, dy):
    x, kernel, bias, y = residuals
    before = _before_activation(act)
    dx = _by_platform(_CORRELATE, (dy, y), kernel.swapaxes(2, 3), stride, before=before)
    dkernel = _by_platform(_KERNEL_GRAD, (dy, y), (x,), stride, kernel.shape[:2], before_big=before)
    return dx, dkernel.swapaxes(2, 3).astype(kernel.dtype), _bias_grad(before, dy, y).astype(bias.dtype)


_conv_transpose.defvjp(_conv_transpose_fwd, _conv_transpose_bwd)


def _finish(bias: Array, act: str) -> Callable[[Array], Array]:
    return lambda z: BY_RESULT[act][0](z.astype(jnp.float32) + bias.astype(jnp.float32).reshape(1, 1, 1, -1))


def _before_activation(act: str) -> Callable[..., Array]:
    """(cotangent, value) of the result to the cotangent before the activation."""
    return lambda dy, y: dy if act == "linear" else dy * BY_RESULT[act][1](y)


def _bias_grad(before: Callable[..., Array], dy: Array, y: Array) -> Array:
    return jnp.sum(before(dy, y), (0, 1, 2), dtype=jnp.float32)


def _same(x: Array) -> Array:
    return x


def _by_platform(lowerings, first, second, *args, **functions) -> Array:
    cpu, default = lowerings
    if _plainly.get():
        return default(first, second, *args, **functions)
    return lax.platform_dependent(
        first,
        second,
        cpu=lambda a, b: cpu(a, b, *args, **functions),
        default=lambda a, b: default(a, b, *args, **functions),
    )


# --- the lowering for GPU and TPU -----------------------------------------------------------------------------------
# No preferred_element_type: the hardware sums bfloat16 products in float32 anyway, and mixed types leave the paths that
# cuDNN has.


def _plain_correlate(bigs, kernel: Array, stride: int, before=_same, after=_same) -> Array:
    big = before(*bigs)
    y = lax.conv_general_dilated(big, kernel, (stride, stride), "VALID", dimension_numbers=_DIMS)
    return after(y).astype(kernel.dtype)


def _plain_spread(smalls, kernel: Array, stride: int, size: tuple[int, int], before=_same, after=_same) -> Array:
    small = before(*smalls)
    kh, kw = kernel.shape[:2]
    # Rows that no window reaches (where the stride does not divide the big grid) are zeros: padding at the end.
    end_h, end_w = (n - ((m - 1) * stride + k) for n, m, k in zip(size, small.shape[1:3], (kh, kw)))
    big = lax.conv_general_dilated(
        small,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        ((kh - 1, kh - 1 + end_h), (kw - 1, kw - 1 + end_w)),
        lhs_dilation=(stride, stride),
        dimension_numbers=_DIMS,
    )
    return after(big).astype(kernel.dtype)


def _plain_kernel_grad(bigs, smalls, stride: int, window: tuple[int, int], before_big=_same, before_small=_same):
    big, small = before_big(*bigs), before_small(*smalls)
    kernel = jax.ShapeDtypeStruct((*window, big.shape[-1], small.shape[-1]), big.dtype)
    correlate = functools.partial(
        lax.conv_general_dilated, big, window_strides=(stride, stride), padding="VALID", dimension_numbers=_DIMS
    )
    (grad,) = jax.linear_transpose(correlate, kernel)(small)
    return grad.astype(jnp.float32)


# --- the lowering for CPU -------------------------------------------------------------------------------------------
# ``before`` and ``after`` are applied inside the loop over frames. Products are of the inputs' type, summed in float32; but
# XLA's sums over rows (gradients of kernels) and its convolutions are faster in float32.


def _products_correlate(bigs, kernel: Array, stride: int, before=_same, after=_same) -> Array:
    kh, kw, _, depth = kernel.shape
    h, w = size = tuple((n - k) // stride + 1 for n, k in zip(bigs[0].shape[1:3], (kh, kw)))
    windows, blocks = _intermediates(size, kernel.shape, stride)
    if windows <= blocks:
        flat = kernel.reshape(-1, depth)

        def frames(*bigs):
            rows = _windows(before(*bigs).astype(kernel.dtype), (kh, kw), stride, size)
            return after(_dot(rows, flat)).astype(kernel.dtype)
    else:
        flat, (p, q) = _blocks_of_kernel(kernel, stride)
        grid = (h + p - 1, w + q - 1)

        def frames(*bigs):
            rows = _blocks(before(*bigs).astype(kernel.dtype), grid, stride)
            parts = _dot(rows, flat).reshape(-1, *grid, p, q, depth)
            shifted = [parts[:, i : i + h, j : j + w, i, j] for i in range(p) for j in range(q)]
            return after(functools.reduce(jnp.add, shifted)).astype(kernel.dtype)

    return map_frames(frames, min(windows, blocks), *bigs)


def _products_spread(smalls, kernel: Array, stride: int, size: tuple[int, int], before=_same, after=_same) -> Array:
    kh, kw, channels, depth = kernel.shape
    h, w = smalls[0].shape[1:3]
    windows, blocks = _intermediates((h, w), kernel.shape, stride)
    if (h, w) == (1, 1):  # one window a frame, nothing overlaps: one product, whose weights outweigh its windows
        whole = _dot(before(*smalls).astype(kernel.dtype).reshape(-1, depth), kernel.reshape(-1, depth).T)
        return after(_fit(whole.reshape(-1, kh, kw, channels), size)).astype(kernel.dtype)
    flat, (p, q) = _blocks_of_kernel(kernel, stride)
    flat = flat.reshape(-1, p, q, depth)
    if windows <= blocks:
        columns = flat.transpose(3, 1, 2, 0).reshape(depth, -1)

        def frames(*smalls):
            parts = _dot(before(*smalls).astype(kernel.dtype), columns).reshape(-1, h, w, p, q, flat.shape[0])
            shifted = [_shift(parts[:, :, :, i, j], (i, j), (p, q)) for i in range(p) for j in range(q)]
            return after(_unblocks(functools.reduce(jnp.add, shifted), size, stride)).astype(kernel.dtype)
    else:
        # The sub-pixel form: a convolution of stride 1, the one kind XLA does well on CPU, and without windows.
        taps = flat[:, ::-1, ::-1].transpose(1, 2, 3, 0).astype(jnp.float32)
        pads = ((p - 1, p - 1), (q - 1, q - 1))

        def frames(*smalls):
            small = before(*smalls).astype(jnp.float32)
            big = lax.conv_general_dilated(small, taps, (1, 1), pads, dimension_numbers=_DIMS)
            return after(_unblocks(big, size, stride)).astype(kernel.dtype)

    return map_frames(frames, min(windows, blocks), *smalls)


def _products_kernel_grad(bigs, smalls, stride: int, window: tuple[int, int], before_big=_same, before_small=_same):
    channels, depth = bigs[0].shape[-1], smalls[0].shape[-1]
    h, w = size = smalls[0].shape[1:3]
    p, q = (-(-k // stride) for k in window)
    windows, blocks = _intermediates(size, (*window, channels, depth), stride)
    if size == (1, 1):  # the windows are the big grid itself: no loop, which would add up large kernels many times
        big = before_big(*bigs)[:, : window[0], : window[1]].astype(jnp.float32)
        small = before_small(*smalls).astype(jnp.float32)
        return _dot_rows(big.reshape(big.shape[0], -1), small).reshape(*window, channels, depth)
    if windows <= blocks:

        def frames(bigs, smalls):
            rows = _windows(before_big(*bigs), window, stride, size)
            return _dot_rows(rows, before_small(*smalls).astype(jnp.float32))
    else:

        def frames(bigs, smalls):
            small = before_small(*smalls).astype(jnp.float32)
            met = [_shift(small, (i, j), (p, q)) for i in range(p) for j in range(q)]
            return _dot_rows(_blocks(before_big(*bigs), (h + p - 1, w + q - 1), stride), jnp.concatenate(met, -1))

    total = sum_frames(frames, min(windows, blocks), bigs, smalls)
    if windows > blocks:
        total = total.reshape(stride, stride, channels, p, q, depth).transpose(3, 0, 4, 1, 2, 5)
        total = total.reshape(p * stride, q * stride, channels, depth)[: window[0], : window[1]]
    return total.reshape(*window, channels, depth)


_CORRELATE = (_products_correlate, _plain_correlate)
_SPREAD = (_products_spread, _plain_spread)
_KERNEL_GRAD = (_products_kernel_grad, _plain_kernel_grad)


def _intermediates(size: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Numbers a frame in the windows form and in the blocks form."""
    kh, kw, channels, depth = kernel
    p, q = -(-kh // stride), -(-kw // stride)
    return math.prod(size) * kh * kw * channels, (size[0] + p - 1) * (size[1] + q - 1) * p * q * depth


def _fit(x: Array, size: tuple[int, int]) -> Array:
    """Crop, or fill with zeros, at the end of both grid axes."""
    spare = [(0, n - m, 0) for n, m in zip(size, x.shape[1:3])]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *spare, (0, 0, 0)))


def _shift(x: Array, start: tuple[int, int], span: tuple[int, int]) -> Array:
    """Place x at ``start`` on a grid of zeros larger by span - 1."""
    pads = [(i, n - 1 - i, 0) for i, n in zip(start, span)]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def _windows(x: Array, window: tuple[int, int], stride: int, size: tuple[int, ...]) -> Array:
    """Make [N, h, w, kh*kw*B], first along the rows, where whole pixels lie side by side, then across them."""
    (kh, kw), (h, w), (n, _, _, channels) = window, size, x.shape
    q = -(-kw // stride)
    rows = stride * (h - 1) + kh
    dtype, x = x.dtype, to_bits(x)
    x = _fit(x, (rows, stride * (w + q - 1))).reshape(n, rows, w + q - 1, stride * channels)
    x = jnp.concatenate([x[:, :, j : j + w] for j in range(q)], -1)[..., : kw * channels]
    return from_bits(jnp.concatenate([x[:, a : a + stride * (h - 1) + 1 : stride] for a in range(kh)], -1), dtype)


def _blocks(x: Array, grid: tuple[int, int], stride: int) -> Array:
    """Cut into blocks of stride x stride pixels: [N, *grid, stride*stride*B]."""
    n, _, _, channels = x.shape
    dtype, x = x.dtype, to_bits(x)
    x = _fit(x, (stride * grid[0], stride * grid[1]))
    x = x.reshape(n, grid[0], stride, grid[1], stride, channels).transpose(0, 1, 3, 2, 4, 5)
    return from_bits(x.reshape(n, *grid, stride * stride * channels), dtype)


def _unblocks(x: Array, size: tuple[int, int], stride: int) -> Array:
    """Undo ``_blocks``."""
    n, rows, columns, width = x.shape
    channels = width // stride**2
    x = x.reshape(n, rows, columns, stride, stride, channels).transpose(0, 1, 3, 2, 4, 5)
    return _fit(x.reshape(n, rows * stride, columns * stride, channels), size)


def _blocks_of_kernel(kernel: Array, stride: int) -> tuple[Array, tuple[int, int]]:
    """Kernel [kh, kw, B, S] as [stride*stride*B, p*q*S], zeros where the last block is not full, and (p, q)."""
    kh, kw, channels, depth = kernel.shape
    p, q = -(-kh // stride), -(-kw // stride)
    kernel = jnp.pad(kernel, ((0, p * stride - kh), (0, q * stride - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(p, stride, q, stride, channels, depth).transpose(1, 3, 4, 0, 2, 5)
    return kernel.reshape(stride * stride * channels, p * q * depth), (p, q)


def _dot(a: Array, b: Array) -> Array:
    """Multiply [..., K] by [K, M] into float32."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _dot_rows(a: Array, b: Array) -> Array:
    """Sum the outer products of the last axes over all other axes, in float32."""
    a, b = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) for x in (a, b))
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))
