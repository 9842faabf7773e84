"""Strided and transposed convolutions, NHWC, that are fast on every platform.

XLA's own convolutions are fast on GPU and TPU; on CPU their strided gradients and dilated forms run six to ten times slower
than PyTorch, while its matrix products are fast. So both functions here choose their lowering per platform: products on
CPU, ``lax.conv_general_dilated`` elsewhere.

A strided convolution, its transpose and their gradients are three bilinear maps between a *big* grid [N, H, W, B] and a
*small* one [N, h, w, S], with a kernel [kh, kw, B, S] and H = (h - 1) * stride + kh:

    correlate    small[i, j, s]     = sum_abc  big[i*r + a, j*r + b, c] * kernel[a, b, c, s]      (r is the stride)
    spread       big[i*r+a, j*r+b]  = sum_ijs  small[i, j, s] * kernel[a, b, :, s]
    kernel_grad  kernel[a, b, c, s] = sum_nij  big[i*r + a, j*r + b, c] * small[i, j, s]

The convolution is ``correlate``, its gradients ``spread`` and ``kernel_grad``; the transposed convolution is ``spread``,
its gradients ``correlate`` and ``kernel_grad``. Each map has two forms as matrix products:

    windows  one row of kh*kw*B numbers for each small position
    blocks   one row of r*r*B numbers for each r x r block of the big grid, met by p*q small positions (p = ceil(kh / r))

and the form whose intermediate is smaller is also the faster one in every layer of Dreamer.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.types import Array

_DIMS = ("NHWC", "HWIO", "NHWC")

# Bytes of intermediate (windows or products) one step of a CPU loop over frames makes: what is read right after it is
# written should still lie in the cache. Flat between 3 and 8 MB on a machine with 1 MB of L2 a core and 32 MB of L3.
_CHUNK_BYTES = 5 * 2**20


def conv2d(x: Array, kernel: Array, *, stride: int) -> Array:
    """Convolve without padding: y[i, j, o] = sum_abc x[i*stride + a, j*stride + b, c] * kernel[a, b, c, o].

    ``x`` is [..., H, W, Cin] with any leading axes, ``kernel`` [kh, kw, Cin, Cout]; the result is [..., H', W', Cout] with
    H' = (H - kh) // stride + 1, in the common dtype of both, summed in float32. Differentiable once, in reverse.
    Raises ValueError where the shapes or dtypes do not fit.
    """
    _check("conv2d", x, kernel, stride)
    if x.shape[-3] < kernel.shape[0] or x.shape[-2] < kernel.shape[1]:
        raise ValueError(f"conv2d: a kernel of {kernel.shape[:2]} does not fit into an image of {x.shape[-3:-1]}")
    y = _conv(x.reshape(-1, *x.shape[-3:]), kernel, stride)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def conv2d_transpose(x: Array, kernel: Array, *, stride: int) -> Array:
    """Spread each input over an output window: y[i*stride + a, j*stride + b, o] += x[i, j, c] * kernel[a, b, c, o].

    ``x`` is [..., H, W, Cin] with any leading axes, ``kernel`` [kh, kw, Cin, Cout]; the result is [..., H', W', Cout] with
    H' = (H - 1) * stride + kh, as ``torch.nn.ConvTranspose2d`` without padding, in the common dtype of both, summed in
    float32. Differentiable once, in reverse. Raises ValueError where the shapes or dtypes do not fit.
    """
    _check("conv2d_transpose", x, kernel, stride)
    y = _conv_transpose(x.reshape(-1, *x.shape[-3:]), kernel, stride)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _check(name: str, x: Array, kernel: Array, stride: int) -> None:
    if x.ndim < 3 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"{name}: wants x [..., H, W, Cin] and kernel [kh, kw, Cin, Cout], found {x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: cast x and kernel to one floating dtype, found {x.dtype} and {kernel.dtype}")
    if stride < 1:
        raise ValueError(f"{name}: stride must be at least 1, found {stride}")


# Own gradients, for two reasons: the residuals are x and the kernel only, never windows; and each of the three maps picks
# its lowering by itself, so that no branch for another platform leaves residuals behind.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, stride: int) -> Array:
    return _correlate(x, kernel, stride)


def _conv_fwd(x, kernel, stride):
    return _correlate(x, kernel, stride), (x, kernel)


def _conv_bwd(stride, residuals, dy):
    x, kernel = residuals
    return _spread(dy, kernel, stride, x.shape[1:3]), _kernel_grad(x, dy, stride, kernel.shape[:2])


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_transpose(x: Array, kernel: Array, stride: int) -> Array:
    size = tuple((n - 1) * stride + k for n, k in zip(x.shape[1:3], kernel.shape[:2]))
    return _spread(x, kernel.swapaxes(2, 3), stride, size)


def _conv_transpose_fwd(x, kernel, stride):
    return _conv_transpose(x, kernel, stride), (x, kernel)


def _conv_transpose_bwd(stride, residuals, dy):
    x, kernel = residuals
    dkernel = _kernel_grad(dy, x, stride, kernel.shape[:2])
    return _correlate(dy, kernel.swapaxes(2, 3), stride), dkernel.swapaxes(2, 3)


_conv_transpose.defvjp(_conv_transpose_fwd, _conv_transpose_bwd)


def _correlate(big: Array, kernel: Array, stride: int) -> Array:
    return lax.platform_dependent(
        big,
        kernel,
        cpu=lambda b, k: _products_correlate(b, k, stride),
        default=lambda b, k: _plain_correlate(b, k, stride),
    )


def _spread(small: Array, kernel: Array, stride: int, size: tuple[int, int]) -> Array:
    return lax.platform_dependent(
        small,
        kernel,
        cpu=lambda s, k: _products_spread(s, k, stride, size),
        default=lambda s, k: _plain_spread(s, k, stride, size),
    )


def _kernel_grad(big: Array, small: Array, stride: int, window: tuple[int, int]) -> Array:
    return lax.platform_dependent(
        big,
        small,
        cpu=lambda b, s: _products_kernel_grad(b, s, stride, window),
        default=lambda b, s: _plain_kernel_grad(b, s, stride, window),
    )


# --- the lowering for GPU and TPU -----------------------------------------------------------------------------------


def _plain_correlate(big: Array, kernel: Array, stride: int) -> Array:
    strides = (stride, stride)
    y = lax.conv_general_dilated(
        big, kernel, strides, "VALID", dimension_numbers=_DIMS, preferred_element_type=jnp.float32
    )
    return y.astype(big.dtype)


def _plain_spread(small: Array, kernel: Array, stride: int, size: tuple[int, int]) -> Array:
    kh, kw = kernel.shape[:2]
    # Rows the windows never reach (size not a multiple of the stride) get zeros, by padding at the end.
    end_h, end_w = (n - ((m - 1) * stride + k) for n, m, k in zip(size, small.shape[1:3], (kh, kw)))
    big = lax.conv_general_dilated(
        small,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        ((kh - 1, kh - 1 + end_h), (kw - 1, kw - 1 + end_w)),
        lhs_dilation=(stride, stride),
        dimension_numbers=_DIMS,
        preferred_element_type=jnp.float32,
    )
    return big.astype(small.dtype)


def _plain_kernel_grad(big: Array, small: Array, stride: int, window: tuple[int, int]) -> Array:
    kernel = jax.ShapeDtypeStruct((*window, big.shape[-1], small.shape[-1]), big.dtype)
    correlate = functools.partial(
        lax.conv_general_dilated, big, window_strides=(stride, stride), padding="VALID", dimension_numbers=_DIMS
    )
    (grad,) = jax.linear_transpose(correlate, kernel)(small)
    return grad


# --- the lowering for CPU -------------------------------------------------------------------------------------------


def _products_correlate(big: Array, kernel: Array, stride: int) -> Array:
    kh, kw, channels, out = kernel.shape
    size = tuple((n - k) // stride + 1 for n, k in zip(big.shape[1:3], (kh, kw)))
    windows, blocks = _intermediates(size, kernel.shape, stride)
    weights = kernel.astype(jnp.float32)
    if windows <= blocks:
        flat = weights.reshape(-1, out)

        def frames(x):
            return (_windows(x, (kh, kw), stride, size) @ flat).astype(big.dtype)
    else:
        flat, (p, q) = _blocks_of_kernel(weights, stride)
        grid = (size[0] + p - 1, size[1] + q - 1)

        def frames(x):
            parts = (_blocks(x, grid, stride) @ flat.reshape(-1, p * q * out)).reshape(-1, *grid, p, q, out)
            shifted = [parts[:, i : i + size[0], j : j + size[1], i, j] for i in range(p) for j in range(q)]
            return functools.reduce(jnp.add, shifted).astype(big.dtype)

    return _map_frames(frames, min(windows, blocks), big)


def _products_spread(small: Array, kernel: Array, stride: int, size: tuple[int, int]) -> Array:
    kh, kw, channels, depth = kernel.shape
    n, h, w, _ = small.shape
    weights = kernel.astype(jnp.float32)
    if (h, w) == (1, 1):  # one window a frame: nothing overlaps
        flat = weights.reshape(-1, depth).T
        whole = (small.reshape(n, depth).astype(jnp.float32) @ flat).reshape(n, kh, kw, channels)
        return _fit(whole.astype(small.dtype), size)
    windows, blocks = _intermediates((h, w), kernel.shape, stride)
    flat, (p, q) = _blocks_of_kernel(weights, stride)
    flat = flat.reshape(-1, p, q, depth)
    if windows <= blocks:
        columns = flat.transpose(3, 1, 2, 0).reshape(depth, -1)

        def frames(x):
            parts = (x.astype(jnp.float32) @ columns).reshape(-1, h, w, p, q, columns.shape[1] // (p * q))
            shifted = [_shift(parts[:, :, :, i, j], (i, j), (p, q)) for i in range(p) for j in range(q)]
            return _unblocks(functools.reduce(jnp.add, shifted), size, stride).astype(small.dtype)
    else:
        # The sub-pixel form is a convolution of stride 1, the one kind XLA's CPU library does well, and without windows.
        taps = flat[:, ::-1, ::-1].transpose(1, 2, 3, 0)

        def frames(x):
            pads = ((p - 1, p - 1), (q - 1, q - 1))
            y = lax.conv_general_dilated(x.astype(jnp.float32), taps, (1, 1), pads, dimension_numbers=_DIMS)
            return _unblocks(y, size, stride).astype(small.dtype)

    return _map_frames(frames, min(windows, blocks), small)


def _products_kernel_grad(big: Array, small: Array, stride: int, window: tuple[int, int]) -> Array:
    channels, depth = big.shape[-1], small.shape[-1]
    size = small.shape[1:3]
    windows, blocks = _intermediates(size, (*window, channels, depth), stride)
    p, q = (-(-k // stride) for k in window)
    if windows <= blocks:

        def frames(b, s):
            return _dot_rows(_windows(b, window, stride, size), s.astype(jnp.float32))
    else:

        def frames(b, s):
            grid = (size[0] + p - 1, size[1] + q - 1)
            s = s.astype(jnp.float32)
            met = [_shift(s, (i, j), (p, q)) for i in range(p) for j in range(q)]
            return _dot_rows(_blocks(b, grid, stride), jnp.concatenate(met, -1))

    total = _sum_frames(frames, min(windows, blocks), big, small)
    if windows > blocks:
        total = total.reshape(stride, stride, channels, p, q, depth).transpose(3, 0, 4, 1, 2, 5)
        total = total.reshape(p * stride, q * stride, channels, depth)[: window[0], : window[1]]
    return total.reshape(*window, channels, depth).astype(big.dtype)


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
    x = _fit(x.astype(jnp.float32), (rows, stride * (w + q - 1))).reshape(n, rows, w + q - 1, stride * channels)
    x = jnp.concatenate([x[:, :, j : j + w] for j in range(q)], -1)[..., : kw * channels]
    return jnp.concatenate([x[:, a : a + stride * (h - 1) + 1 : stride] for a in range(kh)], -1)


def _blocks(x: Array, grid: tuple[int, int], stride: int) -> Array:
    """Cut into blocks of stride x stride pixels: [N, *grid, stride*stride*B]."""
    n, _, _, channels = x.shape
    x = _fit(x.astype(jnp.float32), (stride * grid[0], stride * grid[1]))
    x = x.reshape(n, grid[0], stride, grid[1], stride, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, *grid, stride * stride * channels)


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


def _dot_rows(a: Array, b: Array) -> Array:
    """Sum the outer products of the last axes over all other axes."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _chunked(arrays: tuple[Array, ...], numbers: int) -> tuple[Array, ...]:
    """Reshape [N, ...] to [chunks, frames, ...], padded with zero frames where N does not divide well."""
    n = arrays[0].shape[0]
    target = max(1, _CHUNK_BYTES // (4 * numbers))
    if n <= 1.5 * target:
        return tuple(a[None] for a in arrays)
    even = [c for c in range(max(1, target // 2), int(1.5 * target) + 1) if n % c == 0]
    chunks = n // min(even, key=lambda c: abs(c - target)) if even else -(-n // target)
    frames = -(-n // chunks)
    pad = chunks * frames - n
    if pad:
        arrays = tuple(jnp.pad(a, ((0, pad), *((0, 0),) * (a.ndim - 1))) for a in arrays)
    return tuple(a.reshape(chunks, frames, *a.shape[1:]) for a in arrays)


def _map_frames(function, numbers: int, x: Array) -> Array:
    """Apply ``function`` [n, ...] -> [n, ...] to all frames, a cacheful at a time."""
    (chunks,) = _chunked((x,), numbers)
    if chunks.shape[0] == 1:
        return function(x)
    y = lax.map(function, chunks)
    return y.reshape(-1, *y.shape[2:])[: x.shape[0]]


def _sum_frames(function, numbers: int, *arrays: Array) -> Array:
    """Sum ``function`` over all frames, a cacheful at a time."""
    chunks = _chunked(arrays, numbers)
    if chunks[0].shape[0] == 1:
        return function(*arrays)
    shape = jax.eval_shape(function, *(c[0] for c in chunks))
    total, _ = lax.scan(lambda sum_, c: (sum_ + function(*c), None), jnp.zeros(shape.shape, shape.dtype), chunks)
    return total
