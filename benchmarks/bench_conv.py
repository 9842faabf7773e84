"""How long do 500 frames take through V1's image encoder and decoder, with gradients: ours, plain XLA, PyTorch?

python benchmarks/bench_conv.py [--frames 500] [--repeats 9] [--skip-xla]
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from harness import interleave, stamp, summary, write
from jax import lax
from torch import nn

from jaxdreamer.nets.decoders import ConvDecoder
from jaxdreamer.nets.encoders import ConvEncoder

DIMS = ("NHWC", "HWIO", "NHWC")
DEPTH, FEATURES = 32, 1024  # the decoder reads the embedding, so that one loss drives both


def modules():
    return ConvEncoder(DEPTH, "relu"), ConvDecoder(DEPTH, "relu", (64, 64, 3))


def ours(params, image):
    encoder, decoder = modules()
    return decoder.apply({"params": params["decoder"]}, encoder.apply({"params": params["encoder"]}, image))


def plain_xla(params, image):
    x = image
    for index in range(4):
        layer = params["encoder"][f"conv_{index}"]
        x = lax.conv_general_dilated(x, layer["kernel"], (2, 2), "VALID", dimension_numbers=DIMS)
        x = jax.nn.relu(x + layer["bias"])
    dense = params["decoder"]["dense"]
    x = (x.reshape(x.shape[0], -1) @ dense["kernel"] + dense["bias"])[:, None, None, :]
    for index in range(4):
        layer = params["decoder"][f"deconv_{index}"]
        kernel = layer["kernel"].swapaxes(2, 3)  # as transpose_kernel wants it: windows as they are, not flipped
        x = (
            lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=DIMS, transpose_kernel=True)
            + layer["bias"]
        )
        x = jax.nn.relu(x) if index < 3 else x
    return x


def torch_network() -> nn.Module:
    layers: list[nn.Module] = []
    for cin, cout in [(3, 32), (32, 64), (64, 128), (128, 256)]:
        layers += [nn.Conv2d(cin, cout, 4, 2), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(1024, 1024), nn.Unflatten(1, (1024, 1, 1))]
    for cin, cout, window in [(1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)]:
        layers += [nn.ConvTranspose2d(cin, cout, window, 2), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def jax_candidate(apply, params, image):
    """Compile; (call, what compiling took, temporary memory, loss)."""

    def loss(params, image):
        return jnp.sum((apply(params, image) - image) ** 2) / image.shape[0]

    start = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, image).compile()
    facts = {
        "compile_seconds": time.perf_counter() - start,
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "loss": float(compiled(params, image)[0]),
    }
    return lambda: jax.block_until_ready(compiled(params, image)), facts


def torch_candidate(image):
    network, image = torch_network(), torch.tensor(image).permute(0, 3, 1, 2).contiguous()

    def call():
        network.zero_grad(set_to_none=True)
        loss = ((network(image) - image) ** 2).sum() / image.shape[0]
        loss.backward()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--skip-xla", action="store_true", help="plain XLA convolutions take ten times as long")
    args = parser.parse_args()

    image = np.random.default_rng(0).uniform(-0.5, 0.5, (args.frames, 64, 64, 3)).astype(np.float32)
    encoder, decoder = modules()
    params = {
        "encoder": encoder.lazy_init(jax.random.key(0), jax.ShapeDtypeStruct(image.shape[1:], jnp.float32))["params"],
        "decoder": decoder.lazy_init(jax.random.key(1), jax.ShapeDtypeStruct((FEATURES,), jnp.float32))["params"],
    }
    functions = {"jaxdreamer": ours} | ({} if args.skip_xla else {"plain_xla": plain_xla})
    candidates, facts = {"torch": torch_candidate(image)}, {}
    for name, apply in functions.items():
        candidates[name], facts[name] = jax_candidate(apply, params, jnp.asarray(image))
    if not args.skip_xla:  # the same network
        np.testing.assert_allclose(facts["jaxdreamer"]["loss"], facts["plain_xla"]["loss"], rtol=1e-4)

    seconds = interleave(candidates, repeats=args.repeats)
    times = {name: summary(values) | facts.get(name, {}) for name, values in seconds.items()}
    for name, found in times.items():
        print(f"{name:12} median {found['median']:.3f} s, min {found['min']:.3f} s")
    print(write("bench_conv", {"stamp": stamp(), "frames": args.frames, "seconds": times, "all": seconds}))


if __name__ == "__main__":
    main()
