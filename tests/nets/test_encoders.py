"""Image encoders and decoders: shapes, parameter counts, names, gradients, precision, and the layers they share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.nets.decoders import ConvDecoder, decoder_plan
from jaxdreamer.nets.encoders import ConvEncoder, encoder_layers
from jaxdreamer.nets.layers import MLP, Dense, Style
from jaxdreamer.ops.activations import activation

SIZES = [(8, 8), (16, 16), (32, 32), (48, 64), (64, 64), (84, 84), (96, 96), (100, 100), (128, 128), (65, 51), (9, 40)]


def shapes(module, *args):
    """Parameters and result of a module as shapes, without computing anything."""
    out, variables = jax.eval_shape(module.init_with_output, jax.eval_shape(lambda: jax.random.key(0)), *args)
    return variables["params"], out


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_v1_sizes_are_the_released_ones():
    params, embed = shapes(ConvEncoder(32, "relu", embed_size=1024), floats(50, 64, 64, 3))
    assert count(params) == 690_144
    assert set(params) == {"conv_0", "conv_1", "conv_2", "conv_3"}
    assert embed.shape == (50, 1024)
    params, image = shapes(ConvDecoder(32, "relu", (64, 64, 3)), floats(50, 230))
    assert count(params) == 3_795_555
    assert set(params) == {"dense", "deconv_0", "deconv_1", "deconv_2", "deconv_3"}
    kernels = [params[f"deconv_{i}"]["kernel"].shape for i in range(4)]
    assert kernels == [(5, 5, 1024, 128), (5, 5, 128, 64), (6, 6, 64, 32), (6, 6, 32, 3)]
    assert image.shape == (50, 64, 64, 3)


def test_v2_sizes_are_the_released_ones():
    params, embed = shapes(ConvEncoder(48, "elu"), floats(64, 64, 3))
    assert (count(params), embed.shape) == (1_551_312, (1536,))
    params, _ = shapes(ConvDecoder(48, "elu", (64, 64, 3)), floats(1024 + 200))
    assert count(params) == 9_886_611


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_is_encoded_and_reproduced(size, channels):
    _, embed = shapes(ConvEncoder(2, "relu"), floats(5, 3, *size, channels))
    assert embed.shape[:2] == (5, 3) and embed.shape[2] > 0 and embed.dtype == jnp.float32
    _, embed = shapes(ConvEncoder(2, "relu", embed_size=24), floats(5, 3, *size, channels))
    assert embed.shape == (5, 3, 24)
    _, image = shapes(ConvDecoder(2, "relu", (*size, channels)), floats(5, 3, 10))
    assert image.shape == (5, 3, *size, channels) and image.dtype == jnp.float32


def test_layers_for_a_size():
    sizes = {8: 1, 15: 2, 16: 2, 32: 3, 45: 3, 46: 4, 64: 4, 84: 4, 96: 4, 128: 4}
    assert {size: encoder_layers((size, size)) for size in sizes} == sizes
    assert encoder_layers((48, 64)) == 4 and encoder_layers((8, 64)) == 1


def test_decoder_plans():
    assert decoder_plan((64, 64)) == ((1, 1), ((5, 5), (5, 5), (6, 6), (6, 6)))
    assert decoder_plan((84, 84)) == ((2, 2), ((5, 5), (6, 6), (6, 6), (6, 6)))
    assert decoder_plan((65, 51)) == ((5, 3), ((6, 6), (5, 6), (5, 5)))
    for size in [(h, w) for h in range(8, 140) for w in (h, 64)]:
        (h, w), windows = decoder_plan(size)
        for kh, kw in windows:
            h, w = (h - 1) * 2 + kh, (w - 1) * 2 + kw
        assert (h, w) == size


@pytest.mark.parametrize("size", [(7, 7), (64, 4)])
def test_images_too_small_are_refused(size):
    message = f"at least 8 x 8 pixels, found {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=message):
        shapes(ConvEncoder(2, "relu"), floats(*size, 3))
    with pytest.raises(ValueError, match=message):
        shapes(ConvDecoder(2, "relu", (*size, 3)), floats(10))


def drawn(params):
    """Kernels drawn by NumPy, which need no compiling, and zero biases."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: np.float32(rng.standard_normal(s.shape) / np.sqrt(np.prod(s.shape[:-1])) * (len(s.shape) > 1)), params
    )


def autoencoder(act, residual, dtype=jnp.float32):
    encoder = ConvEncoder(2, act, embed_size=12, residual=residual, dtype=dtype)
    decoder = ConvDecoder(2, act, (16, 18, 3), residual=residual, dtype=dtype)

    params = tuple(drawn(shapes(m, f)[0]) for m, f in [(encoder, floats(16, 18, 3)), (decoder, floats(12))])

    def apply(params, x):
        return decoder.apply({"params": params[1]}, encoder.apply({"params": params[0]}, x))

    return params, apply


@pytest.mark.parametrize("act, residual", [("relu", False), ("silu", True), (jnp.tanh, False)])
def test_every_parameter_gets_a_gradient_and_frames_are_independent(act, residual):
    params, apply = autoencoder(act, residual)
    x = np.float32(np.random.default_rng(1).uniform(-0.5, 0.5, (3, 16, 18, 3)))

    @jax.jit
    def run(params):
        def loss(params):
            images = apply(params, x)
            return jnp.mean((images - x) ** 2), images

        grads, images = jax.grad(loss, has_aux=True)(params)
        return grads, images, apply(params, x[1])

    grads, images, one = run(params)
    assert jax.tree.structure(params) == jax.tree.structure(grads)
    names = {
        jax.tree_util.keystr(path): float(jnp.abs(g).max()) for path, g in jax.tree_util.tree_leaves_with_path(grads)
    }
    assert all(names.values()), names
    assert any("residual" in name for name in names) == residual
    np.testing.assert_allclose(images[1], one, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(images[0] - images[1]).max()) > 1e-4  # it sees its input


def test_activations_follow_every_layer_of_the_encoder_and_all_but_the_last_of_the_decoder():
    encoder, decoder = ConvEncoder(4, "relu"), ConvDecoder(4, "relu", (16, 16, 3))
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    feat = x[:, :3, 0, 0]
    embed = jax.jit(encoder.apply)({"params": drawn(shapes(encoder, x)[0])}, x)
    params, decode = {"params": drawn(shapes(decoder, feat)[0])}, jax.jit(decoder.apply)
    image, half = decode(params, feat), decode(params, 0.5 * feat)
    assert float(embed.min()) == 0.0 < float(embed.max())
    assert float(image.min()) < 0 < float(image.max())
    # With zero biases every layer is homogeneous, whatever the sign of the features.
    np.testing.assert_allclose(half, 0.5 * image, rtol=1e-4, atol=1e-5)


def test_initialisation_is_keras():
    params = ConvEncoder(32, "relu").lazy_init(jax.random.key(0), floats(16, 16, 3))["params"]
    for layer, fans in [("conv_0", 16 * (3 + 32)), ("conv_1", 16 * (32 + 64))]:
        kernel, limit = params[layer]["kernel"], (6 / fans) ** 0.5
        assert 0.99 * limit < float(jnp.abs(kernel).max()) <= limit
        np.testing.assert_allclose(float(kernel.std()), limit / 3**0.5, rtol=0.04)
        assert not params[layer]["bias"].any()


def test_bfloat16_keeps_parameters_and_results_in_float32():
    params, apply = autoencoder("elu", False, jnp.bfloat16)
    _, exact = autoencoder("elu", False)
    x = np.float32(np.random.default_rng(1).uniform(-0.5, 0.5, (3, 16, 18, 3)))

    @jax.jit
    def run(params):
        return jax.grad(lambda p: apply(p, x).sum())(params), apply(params, x), exact(params, x)

    grads, low, high = run(params)
    created = [shapes(ConvEncoder(2, "elu", dtype=jnp.bfloat16), x)[0], shapes(Dense(3, dtype=jnp.bfloat16), x)[0]]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((created, grads, low)))
    np.testing.assert_allclose(low, high, atol=0.1)
    assert float(jnp.abs(low - high).max()) > 1e-6  # it did compute in bfloat16


def test_activation_by_name():
    x = jnp.array([-2.0, 0.5])
    np.testing.assert_allclose(activation("elu")(x), [np.expm1(-2), 0.5], rtol=1e-6)
    np.testing.assert_allclose(activation("silu")(x), x / (1 + np.exp(-x)), rtol=1e-6)
    with pytest.raises(ValueError, match="relu, elu, silu, tanh"):
        activation("swish")
    with pytest.raises(ValueError, match="relu, elu, silu, tanh"):
        shapes(ConvEncoder(2, "swish"), floats(16, 16, 3))


@pytest.mark.parametrize("name", ["relu", "elu", "tanh", "silu"])
def test_an_activations_slope_is_its_own_and_one_array_is_kept_for_it(name):
    x = jnp.array([-30.0, -2.0, -1e-3, 0.0, 1e-3, 0.5, 4.0])
    other = getattr(jax.nn, name)
    y, pull = jax.vjp(activation(name), x)
    np.testing.assert_allclose(y, other(x), rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.arange(7.0))[0], jax.vjp(other, x)[1](jnp.arange(7.0))[0], rtol=1e-5, atol=1e-6)
    (kept,) = jax.tree.leaves(pull)
    np.testing.assert_array_equal(kept, x if name == "silu" else y)


def test_mlp_is_dense_norm_activation():
    x = jax.random.normal(jax.random.key(0), (5, 7))
    module = MLP(2, 6, Style("elu", "layer"))
    out, variables = module.init_with_output(jax.random.key(1), x)
    y = np.asarray(x, np.float64)
    for index in range(2):
        layer = variables["params"][f"dense_{index}"]
        y = y @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-3)
        y = np.where(y > 0, y, np.expm1(y))
    np.testing.assert_allclose(out, y, rtol=1e-4, atol=1e-5)
    assert set(variables["params"]["norm_0"]) == {"scale", "bias"}
    plain, _ = shapes(MLP(2, 6, Style("elu")), floats(7))
    assert set(plain) == {"dense_0", "dense_1"}


def test_dense_multiplies_in_its_dtype_and_answers_in_float32():
    x = jax.random.normal(jax.random.key(0), (5, 64))
    params = Dense(8).init(jax.random.key(1), x)
    exact, low = Dense(8).apply(params, x), Dense(8, dtype=jnp.bfloat16).apply(params, x)
    assert low.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(low - exact).max()) < 0.1
