"""Networks for use elsewhere: the weights carried into torch modules, and those written as ONNX or TorchScript."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxdreamer import ConfigError, MissingExtra
from torchwm_compat.arrays import require_torch

FORMATS = {
    "onnx": "onnx",
    "torchscript": "torchscript",
    "torch-script": "torchscript",
    "script": "torchscript",
    "jit": "torchscript",
    "ts": "torchscript",
    "pt": "torchscript",
    "tensorrt": "tensorrt",
    "tensor-rt": "tensorrt",
    "trt": "tensorrt",
}
TARGETS = ("actor", "obs_encoder", "reward_model", "value_model", "discount_model")


def export_any(
    obj: Any,
    path: Any,
    format: str = "onnx",
    *,
    example_inputs: Any = None,
    target: str | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    dynamic_axes: dict[str, dict[int, str]] | None = None,
    opset_version: int = 18,
    **kwargs: Any,
) -> Path:
    """Write one network of an agent, the deterministic actor by default, or a torch module; returns the path.

    ``target`` is one of ``actor, obs_encoder, reward_model, value_model, discount_model``. The actor takes features
    [N, stoch + deter] and gives actions [N, A]: tanh of the mean of Dreamerv1's distribution, the mean of Dreamerv2's
    truncated one, the likeliest of choices. It draws nothing, where ``agent.evaluate()`` takes the best of 100 samples.
    """
    torch = require_torch("exporting a network")
    if isinstance(obj, torch.nn.Module):
        module = obj
    else:
        dreamer = getattr(obj, "dreamer", obj)
        name = (target or "actor").removeprefix("dreamer.")
        module, example = torch_module(dreamer, name)
        example_inputs = example if example_inputs is None else example_inputs
    return export_model(
        module,
        path,
        format=format,
        example_inputs=example_inputs,
        input_names=input_names,
        output_names=output_names,
        dynamic_axes=dynamic_axes,
        opset_version=opset_version,
        **kwargs,
    )


def export_model(
    module: Any,
    path: Any,
    format: str = "onnx",
    *,
    example_inputs: Any = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    dynamic_axes: dict[str, dict[int, str]] | None = None,
    opset_version: int = 18,
    **kwargs: Any,
) -> Path:
    """Write a torch module as ``onnx``, ``torchscript`` or ``tensorrt``; returns the path.

    Raises:
        ValueError: another format, or no example inputs where they are needed. MissingExtra: the ONNX package is missing.
        RuntimeError: TensorRT without its package.
    """
    torch = require_torch("exporting a network")
    name = str(format).strip().lower().replace("_", "-")
    if name not in FORMATS:
        supported = ", ".join(sorted(set(FORMATS.values())))
        raise ValueError(f"Unsupported export format {format!r}. Use one of: {supported}.")
    kind, out = FORMATS[name], Path(path)
    if example_inputs is None and kind != "torchscript":
        raise ValueError(f"example_inputs is required for {'ONNX' if kind == 'onnx' else 'TensorRT'} export.")
    inputs = tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind == "tensorrt":
        return _tensorrt(torch, module, out, inputs, kwargs)
    was_training = module.training
    module.eval()
    try:
        with warnings.catch_warnings():  # torch would rather have its newer formats written
            warnings.simplefilter("ignore", DeprecationWarning)
            if kind == "torchscript":
                _torchscript(torch, module, out, inputs, kwargs)
            else:
                if find_spec("onnx") is None:
                    raise MissingExtra("jaxdreamer[onnx]", "exporting as ONNX needs the onnx package")
                torch.onnx.export(
                    module,
                    inputs,
                    str(out),
                    input_names=input_names or ["features"],
                    output_names=output_names or ["action"],
                    dynamic_axes=dynamic_axes,
                    opset_version=opset_version,
                    **{"dynamo": False, **kwargs},
                )
    finally:
        module.train(was_training)
    return out


def _torchscript(torch: Any, module: Any, path: Path, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if len(inputs) == 1 and inputs[0] is None:
        made = torch.jit.script(module, **kwargs)
    else:
        made = torch.jit.trace(module, inputs, **kwargs)
    made.save(str(path))


def torch_module(dreamer: Any, name: str = "actor") -> tuple[Any, Any]:
    """(a torch module with the present weights of one network, zeros to call it with).

    Raises:
        ConfigError: there is no such network, or it cannot be had as a torch module.
    """
    torch = require_torch("a torch module")
    if name not in TARGETS or not hasattr(dreamer, name):
        there = [target for target in TARGETS if hasattr(dreamer, target)]
        raise ConfigError(f"export target: expected one of {', '.join(there)}, found {name!r}")
    state = {key: torch.as_tensor(array) for key, array in dreamer.state_dicts()[name].items()}
    config = dreamer.config.model
    if any(key.startswith("jax.") for key in state):
        raise ConfigError(f"export target {name!r}: torch has no module for this network's normalisation or inputs")
    if name == "obs_encoder":
        body = _encoder(torch, state, config.cnn_activation)
        return body, torch.zeros(1, *dreamer.obs_shape)
    features = config.stoch_size * max(config.classes, 1) + config.deter_size
    body = _mlp(torch, state, config.dense_activation)
    if name == "actor":
        body = torch.nn.Sequential(body, _policy(torch, dreamer))
    return body.eval(), torch.zeros(1, features)


def _mlp(torch: Any, state: dict[str, Any], activation: str) -> Any:
    layers: list[Any] = []
    prefixes = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    for prefix in prefixes:
        weight = state[f"{prefix}.weight"]
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": state[f"{prefix}.bias"]})
        layers += [linear, _activation(torch, activation)]
    return torch.nn.Sequential(*layers[:-1])


def _encoder(torch: Any, state: dict[str, Any], activation: str) -> Any:
    layers: list[Any] = []
    for prefix in dict.fromkeys(key.rpartition(".")[0] for key in state):
        weight = state[f"{prefix}.weight"]
        if weight.ndim == 4:
            layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride=2)
            layers += [layer, _activation(torch, activation)]
        else:
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
            layers += [torch.nn.Flatten(-3), layer]
        layer.load_state_dict({"weight": weight, "bias": state[f"{prefix}.bias"]})
    if not any(isinstance(layer, torch.nn.Linear) for layer in layers):
        layers.append(torch.nn.Flatten(-3))
    return torch.nn.Sequential(*layers).eval()


def _activation(torch: Any, name: str) -> Any:
    return {"relu": torch.nn.ReLU, "elu": torch.nn.ELU, "silu": torch.nn.SiLU, "tanh": torch.nn.Tanh}[name]()


def _policy(torch: Any, dreamer: Any) -> Any:
    """The last layer's outputs as a torch module: the action that draws nothing."""
    config = dreamer.config.model
    widths = [(part.kind, part.size) for part in dreamer.spec.action.parts]
    scale = 5.0 if config.actor_distribution == "tanh_normal" else 0.0  # V1 squashes the mean before tanh, V2 does not

    class Policy(torch.nn.Module):
        def forward(self, raw: Any) -> Any:
            actions, start = [], 0
            for kind, size in widths:
                if kind == "continuous":
                    mean = raw[..., start : start + size]
                    actions.append(torch.tanh(scale * torch.tanh(mean / scale)) if scale else torch.tanh(mean))
                    start += 2 * size
                else:
                    logits = raw[..., start : start + size]
                    actions.append((logits == logits.amax(-1, keepdim=True)).to(raw.dtype))
                    start += size
            return torch.cat(actions, -1)

    return Policy()


def _tensorrt(torch: Any, module: Any, path: Path, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Path:
    if find_spec("torch_tensorrt") is None:
        raise RuntimeError(
            "TensorRT export requires the optional torch-tensorrt package. "
            "Install torch-tensorrt in your deployment environment or export ONNX first."
        )
    import torch_tensorrt

    options = {"ir": "ts", "inputs": list(inputs), "enabled_precisions": {torch.float32}, **kwargs}
    torch.jit.save(torch_tensorrt.compile(module, **options), str(path))
    return path
