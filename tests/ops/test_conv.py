"""Convolutions: both lowerings against NumPy loops and torch; gradients; jit, vmap, scan, checkpoint; no dead work."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdreamer.ops import frames
from jaxdreamer.ops.conv import conv2d, conv2d_transpose

# (frames, big grid, window, stride, channels of the big grid, of the small one): Dreamer's layers and odd ones. Both
# forms of each map (windows, blocks) occur, and rows and columns that no window reaches.
CASES = [
    (7, (9, 9), (4, 4), 2, 3, 5),
    (2, (11, 8), (4, 4), 2, 6, 2),
    (7, (7, 10), (3, 5), 2, 2, 3),
    (3, (6, 6), (3, 3), 1, 4, 4),
    (5, (8, 11), (2, 3), 3, 2, 3),
    (1, (9, 8), (2, 1), 3, 3, 2),
    (4, (4, 4), (4, 4), 2, 3, 7),
    (2, (5, 5), (5, 5), 2, 3, 6),
    (7, (11, 10), (5, 6), 2, 2, 8),
    (5, (14, 12), (6, 6), 2, 7, 2),
]


@pytest.fixture(params=["cpu", "default"])
def lowering(request, monkeypatch):
    """Each lowering in turn, as if its platform were this one, and proof at the end that it was used."""
    calls = []

    def choose(*args, **branches):
        calls.append(request.param)
        return branches[request.param](*args)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    yield request.param
    assert calls


def draw(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def slow_maps(big, small, kernel, stride):
    """What correlate(big), spread(small) and kernel_grad(big, small) are, window by window in float64."""
    (kh, kw), (h, w) = kernel.shape[:2], small.shape[1:3]
    correlated, spread, grad = (np.zeros(a.shape) for a in (small, big, kernel))
    for i in range(h):
        for j in range(w):
            rows, columns = slice(i * stride, i * stride + kh), slice(j * stride, j * stride + kw)
            window = big[:, rows, columns].astype(np.float64)
            correlated[:, i, j] = np.einsum("nabc,abcs->ns", window, kernel)
            spread[:, rows, columns] += np.einsum("ns,abcs->nabc", small[:, i, j].astype(np.float64), kernel)
            grad += np.einsum("nabc,ns->abcs", window, small[:, i, j])
    return correlated, spread, grad


@pytest.mark.parametrize("case", range(len(CASES)))
def test_values_and_gradients(lowering, case, monkeypatch):
    if case % 2 == 0:  # loops over frames, a few at a time
        monkeypatch.setattr(frames, "_CHUNK_BYTES", 4000)
    n, (height, width), (kh, kw), stride, channels, depth = CASES[case]
    h, w = (height - kh) // stride + 1, (width - kw) // stride + 1
    big, small, kernel = draw(n, height, width, channels), draw(n, h, w, depth), draw(kh, kw, channels, depth)
    correlated, spread, grad = slow_maps(big, small, kernel, stride)

    @jax.jit
    def ours(big, small, kernel):
        y, pull = jax.vjp(lambda x, k: conv2d(x, k, stride=stride), big, kernel)
        return y, *pull(small)

    for found, expected in zip(ours(big, small, kernel), (correlated, spread, grad)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    reached = big[:, : (h - 1) * stride + kh, : (w - 1) * stride + kw]
    correlated, spread, grad = slow_maps(reached, small, kernel, stride)

    @jax.jit
    def transposed(big, small, kernel):
        y, pull = jax.vjp(lambda x, k: conv2d_transpose(x, k, stride=stride), small, kernel.swapaxes(2, 3))
        dsmall, dkernel = pull(big)
        return dsmall, y, dkernel.swapaxes(2, 3)

    for found, expected in zip(transposed(reached, small, kernel), (correlated, spread, grad)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function, act", [(conv2d, "relu"), (conv2d, "tanh"), (conv2d_transpose, "elu")])
def test_bias_and_activation(lowering, function, act, monkeypatch):
    monkeypatch.setattr(frames, "_CHUNK_BYTES", 12000)
    x, kernel, bias = draw(9, 6, 6, 3), draw(4, 4, 3, 5), draw(5)
    after = {"relu": jax.nn.relu, "elu": jax.nn.elu, "tanh": jnp.tanh}[act]

    def fused(x, kernel, bias):
        return function(x, kernel, bias, stride=2, act=act)

    def apart(x, kernel, bias):
        return after(function(x, kernel, stride=2) + bias)

    @jax.jit
    def both(*args):
        results = []
        for f in (fused, apart):
            y, pull = jax.vjp(f, *args)
            results.append((y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))))
        return results

    for mine, other in zip(*map(jax.tree.leaves, both(x, kernel, bias))):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size, window, stride", [((1, 1), (5, 5), 2), ((5, 4), (6, 5), 2), ((2, 3), (2, 3), 3)])
def test_agrees_with_torch(size, window, stride):
    torch = pytest.importorskip("torch")
    x, kernel = draw(3, *size, 4), draw(*window, 4, 2)
    up = torch.nn.functional.conv_transpose2d(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(kernel).permute(2, 3, 0, 1), stride=stride
    )
    ours = conv2d_transpose(x, kernel, stride=stride)
    np.testing.assert_allclose(ours, up.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-4)

    image = np.array(ours)
    down = torch.nn.functional.conv2d(
        torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(kernel).permute(2, 3, 0, 1), stride=stride
    )
    back = conv2d(image, kernel.swapaxes(2, 3), stride=stride)
    np.testing.assert_allclose(back, down.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-3)


def two_layers(kernels, x):
    down, up = kernels
    return conv2d_transpose(conv2d(x, down, stride=2, act="elu"), up, stride=2)


def test_leading_axes_vmap_and_no_axis_at_all():
    kernels, x = (draw(4, 4, 3, 5), draw(6, 6, 5, 2)), draw(2, 3, 8, 8, 3)

    @jax.jit
    def ways(kernels, x):
        return two_layers(kernels, x), jax.vmap(lambda x: two_layers(kernels, x))(x), two_layers(kernels, x[1, 2])

    at_once, mapped, alone = ways(kernels, x)
    assert at_once.shape == (2, 3, 10, 10, 2)
    np.testing.assert_allclose(mapped, at_once, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alone, at_once[1, 2], rtol=1e-5, atol=1e-5)


def test_vmap_over_kernels_with_gradients():
    # As for agents trained side by side: each with kernels and frames of its own.
    stacked, x = (draw(2, 4, 4, 3, 5), draw(2, 6, 6, 5, 2)), draw(2, 3, 8, 8, 3)
    grad = jax.grad(lambda k, x: jnp.sum(two_layers(k, x) ** 2))

    @jax.jit
    def ways(stacked, x):
        return jax.vmap(grad)(stacked, x), grad(jax.tree.map(lambda k: k[1], stacked), x[1])

    together, alone = ways(stacked, x)
    for mine, other in zip(together, alone):
        np.testing.assert_allclose(mine[1], other, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_gradient_inside_a_scan_and_through_one(wrap, monkeypatch):
    monkeypatch.setattr(frames, "_CHUNK_BYTES", 3000)  # a loop of its own inside the scan
    kernels, x = (draw(4, 4, 3, 5), draw(6, 6, 5, 2)), draw(3, 8, 8, 8, 3)

    def loss(kernels, x):
        return jnp.sum(wrap(two_layers)(kernels, x) ** 2)

    @jax.jit
    def ways(kernels, x):
        zeros = jax.tree.map(jnp.zeros_like, kernels)
        inside, _ = lax.scan(lambda acc, x: (jax.tree.map(jnp.add, acc, jax.grad(loss)(kernels, x)), None), zeros, x)
        through = jax.grad(lambda k: lax.scan(lambda acc, x: (acc + loss(k, x), None), jnp.zeros(()), x)[0])(kernels)
        return jax.grad(loss)(kernels, x), inside, through

    expected, inside, through = ways(kernels, x)
    for found in (inside, through):
        for mine, other in zip(found, expected):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("function", [conv2d, conv2d_transpose])
def test_bfloat16_sums_in_float32(lowering, function):
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (draw(4, 6, 6, 64), draw(4, 4, 64, 3)))

    def loss(x, kernel):
        return jnp.sum(function(x, kernel, stride=2).astype(jnp.float32) ** 2)

    @jax.jit
    def ways(x, kernel):
        return function(x, kernel, stride=2), *jax.grad(loss, argnums=(0, 1))(x, kernel)

    low, exact = ways(x, kernel), ways(x.astype(jnp.float32), kernel.astype(jnp.float32))
    for mine, other in zip(low, exact):
        assert mine.dtype == jnp.bfloat16
        assert float(jnp.max(jnp.abs(mine - other))) < 0.02 * float(jnp.max(jnp.abs(other)))
    # One rounding of the result, nothing lost in the sum of a thousand products.
    np.testing.assert_allclose(low[0].astype(jnp.float32), exact[0], rtol=2**-8, atol=0.02)


@pytest.mark.parametrize("function", [conv2d, conv2d_transpose])
def test_bfloat16_loops_over_frames_convert_no_stack(function, monkeypatch):
    # XLA's CPU compiler would convert a bfloat16 stack to float32 and back in every turn of the loop that fills it.
    monkeypatch.setattr(frames, "_CHUNK_BYTES", 12000)
    many = 600
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (draw(many, 8, 8, 8), draw(4, 4, 8, 6)))

    def loss(x, kernel):
        return jnp.sum(function(x, kernel, stride=2, act="relu").astype(jnp.float32) ** 2)

    text = compiled_cost(jax.grad(loss, argnums=(0, 1)), x, kernel)[2]
    bodies = "\n".join(
        part for part in text.split("\n\n") if "dynamic-update-slice(" in part or "dynamic-slice(" in part
    )
    assert "u16[" in bodies  # the loops are there, and carry bits
    whole = function(x, kernel, stride=2).size
    sizes = [np.prod([int(n) for n in found.split(",")]) for found in re.findall(r"f32\[([0-9,]+)\]", bodies)]
    assert max(sizes) < min(whole, x.size) / 2, "a loop touches a float32 copy of all frames"


def compiled_cost(function, *args):
    compiled = jax.jit(function).lower(*args).compile()
    return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes, compiled.as_text()


def test_no_dead_branch_and_no_dead_gradient():
    x, kernel = draw(16, 16, 16, 8), draw(4, 4, 8, 16)

    def loss(x, kernel):
        return jnp.sum(conv2d(x, kernel, stride=2) ** 2)

    flops, temp, text = compiled_cost(jax.grad(loss, argnums=1), x, kernel)
    assert "conditional" not in text  # the other platforms' branches are gone
    forward = 2 * 16 * 7 * 7 * kernel.size
    # The image's gradient is not asked for: the product and the kernel's gradient remain, blocks adding up to a third.
    assert 2 * forward < flops < 2.7 * forward
    both, _, _ = compiled_cost(jax.grad(loss, argnums=(0, 1)), x, kernel)
    assert both > flops + 0.9 * forward
    windows = 16 * 7 * 7 * 4 * 4 * 8 * 4
    assert temp < 3 * windows


def test_frames_are_taken_in_chunks_that_divide_or_are_padded():
    numbers = frames._CHUNK_BYTES // 4 // 20  # so that twenty frames fill the cache
    assert frames._chunks(30, numbers) == 1
    assert frames._chunks(500, numbers) == 25
    assert frames._chunks(2500, numbers) == 125
    assert frames._chunks(121, numbers) == 11
    assert frames._chunks(127, numbers) == 7  # a prime: 7 steps of 19, six frames of them padding
    assert frames._chunks(10**6, 10**9) == 10**6
    doubled = frames.map_frames(lambda x: 2 * x, numbers, jnp.arange(127.0))
    np.testing.assert_array_equal(doubled, 2 * np.arange(127.0))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, k: conv2d(x, k[..., :2, :], stride=2), "wants x"),
        (lambda x, k: conv2d(x[:, :3], k, stride=2), "does not fit"),
        (lambda x, k: conv2d(x.astype(jnp.bfloat16), k, stride=2), "one floating dtype"),
        (lambda x, k: conv2d_transpose(x, k, stride=0), "stride"),
        (lambda x, k: conv2d(x, k, stride=2, act="swish"), "there are: linear, relu"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5)))


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.float32, jnp.bfloat16):
            kernels = tuple(jnp.asarray(k, dtype) for k in (draw(4, 4, 3, 5), draw(6, 6, 5, 2)))
            x = jnp.ones((2, 8, 8, 3), dtype)
            jax.eval_shape(jax.grad(lambda k, x: two_layers(k, x).astype(jnp.float32).sum()), kernels, x)
