"""Networks for use elsewhere: the weights carried into torch modules, and those written as ONNX or TorchScript."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from jaxdreamer import Agent, ConfigError, MissingExtra, export_policy, make_algorithm
from torchwm_compat.arrays import require_torch

_SPELLINGS = {
    "onnx": ("onnx",),
    "torchscript": ("torchscript", "torch-script", "script", "jit", "ts", "pt"),
    "tensorrt": ("tensorrt", "tensor-rt", "trt"),
}
FORMATS = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
TARGETS = ("actor", "obs_encoder", "reward_model", "value_model", "discount_model")


def export_any(
    obj: Any,
    path: Any,
    format: str = "onnx",
    *,
    example_inputs: Any = None,
    target: str | None = None,
    **options: Any,
) -> Path:
    """Write one network of an agent, the deterministic actor by default, or a torch module; returns the path.

    ``target`` is one of ``actor, obs_encoder, reward_model, value_model, discount_model``. The actor takes features
    [N, stoch + deter] and gives actions [N, A]: tanh of the mean of Dreamerv1's distribution, the mean of Dreamerv2's
    truncated one, the likeliest of choices. It draws nothing, where ``agent.evaluate()`` takes the best of 100 samples.
    ``options`` are those of :func:`export_model`.

    ``target="policy"`` is the whole decision, from observations to actions, by :func:`jaxdreamer.export_policy`: ``path`` is
    a folder, ``format`` ``onnx``, ``stablehlo`` or ``both``, actions are in [-1, 1] or one-hot. It needs no torch.
    """
    if target in ("policy", "dreamer.policy"):
        return export_policy(acting_agent(getattr(obj, "dreamer", obj)), path, format=cast(Any, format), **options)
    torch = require_torch("exporting a network")
    module = obj
    if not isinstance(obj, torch.nn.Module):
        module, example = torch_module(getattr(obj, "dreamer", obj), (target or "actor").removeprefix("dreamer."))
        example_inputs = example if example_inputs is None else example_inputs
    return export_model(module, path, format=format, example_inputs=example_inputs, **options)


def acting_agent(dreamer: Any) -> Agent:
    """jaxdreamer's agent with the parameters that a Dreamer has now, in agent units: images [H, W, C], actions [A]."""
    algorithm = make_algorithm(dreamer.config, dreamer.spec)
    return Agent(dreamer.config, dreamer.spec, algorithm.acting(dreamer.params, dreamer.state.aux))


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
    kind, out = FORMATS.get(str(format).strip().lower().replace("_", "-")), Path(path)
    if kind is None:
        raise ValueError(f"Unsupported export format {format!r}. Use one of: {', '.join(sorted(_SPELLINGS))}.")
    if example_inputs is None and kind != "torchscript":
        raise ValueError(f"example_inputs is required for {'ONNX' if kind == 'onnx' else 'TensorRT'} export.")
    inputs = tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind == "tensorrt":
        return _tensorrt(torch, module, out, inputs, kwargs)
    if kind == "onnx" and find_spec("onnx") is None:
        raise MissingExtra("jaxdreamer[onnx]", "exporting as ONNX needs the onnx package")
    was_training = module.training
    module.eval()
    try:
        with warnings.catch_warnings():  # torch recommends its newer formats
            warnings.simplefilter("ignore", DeprecationWarning)
            if kind == "onnx":
                names = {"input_names": input_names or ["features"], "output_names": output_names or ["action"]}
                options = {"dynamo": False, "dynamic_axes": dynamic_axes, "opset_version": opset_version, **names}
                torch.onnx.export(module, inputs, str(out), **(options | kwargs))
            elif inputs == (None,):
                torch.jit.script(module, **kwargs).save(str(out))
            else:
                torch.jit.trace(module, inputs, **kwargs).save(str(out))
    finally:
        module.train(was_training)
    return out


def torch_module(dreamer: Any, name: str = "actor") -> tuple[Any, Any]:
    """(a torch module with the present weights of one network, zeros to call it with).

    Raises:
        ConfigError: there is no such network, or it cannot be had as a torch module.
    """
    torch = require_torch("a torch module")
    if name not in TARGETS or not hasattr(dreamer, name):
        there = [*(target for target in TARGETS if hasattr(dreamer, target)), "policy"]
        raise ConfigError(f"export target: expected one of {', '.join(there)}, found {name!r}")
    state = {key: torch.as_tensor(array) for key, array in dreamer.state_dicts()[name].items()}
    config = dreamer.config.model
    if any(key.startswith("jax.") for key in state):
        raise ConfigError(f"export target {name!r}: torch has no module for this network's normalisation or inputs")
    if name == "obs_encoder":
        return _sequential(torch, state, config.cnn_activation), torch.zeros(1, *dreamer.obs_shape)
    body = _sequential(torch, state, config.dense_activation)
    if name == "actor":
        body = torch.nn.Sequential(body, _policy(torch, dreamer)).eval()
    return body, torch.zeros(1, config.stoch_size * max(config.classes, 1) + config.deter_size)


def _sequential(torch: Any, state: dict[str, Any], activation: str) -> Any:
    """Convolutions and linear layers in the order of a state dictionary; a last linear layer has no activation."""
    nn, layers = torch.nn, []
    act = {"relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU, "tanh": nn.Tanh}[activation]
    prefixes = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    flat = True
    for prefix in prefixes:
        weight = state[f"{prefix}.weight"]
        if weight.ndim == 4:
            layer, flat = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride=2), False
        else:
            layers += [] if flat else [nn.Flatten(-3)]
            layer, flat = nn.Linear(weight.shape[1], weight.shape[0]), True
        layer.load_state_dict({"weight": weight, "bias": state[f"{prefix}.bias"]})
        layers += [layer, act()]
    return nn.Sequential(*layers[:-1] if flat else [*layers, nn.Flatten(-3)]).eval()


def _policy(torch: Any, dreamer: Any) -> Any:
    """The last layer's outputs as a torch module: the action that draws nothing."""
    widths = [(part.kind, part.size) for part in dreamer.spec.action.parts]
    is_v1 = dreamer.config.model.actor_distribution == "tanh_normal"  # V1 squashes the mean before tanh, V2 does not

    class Policy(torch.nn.Module):
        def forward(self, raw: Any) -> Any:
            actions, start = [], 0
            for kind, size in widths:
                part = raw[..., start : start + size]
                if kind == "continuous":
                    actions.append(torch.tanh(5.0 * torch.tanh(part / 5.0)) if is_v1 else torch.tanh(part))
                    start += 2 * size
                else:
                    actions.append((part == part.amax(-1, keepdim=True)).to(raw.dtype))
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
