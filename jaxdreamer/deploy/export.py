"""A trained agent's policy as files that act without this library: StableHLO, ONNX, and a contract that says how."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal, get_args

from jaxdreamer import __version__
from jaxdreamer.deploy.agent import Agent, load_agent
from jaxdreamer.deploy.formats import PLATFORMS, to_onnx, to_stablehlo
from jaxdreamer.deploy.step import ActsBy, PolicyStep, policy_step
from jaxdreamer.errors import ConfigError
from jaxdreamer.files import at_home
from jaxdreamer.saving import replacing, write_json

Format = Literal["stablehlo", "onnx", "both"]
CONTRACT = "contract.json"
_FILES = {"stablehlo": "policy.stablehlo", "onnx": "policy.onnx"}
_READ_BY = {"stablehlo": "jax.export.deserialize(bytearray(data)).call(inputs)", "onnx": "onnxruntime.InferenceSession"}


def export_policy(
    run: str | os.PathLike[str] | Agent,
    folder: str | os.PathLike[str] | None = None,
    *,
    format: Format = "both",
    acts_by: ActsBy = "greedy",
    step: int | None = None,
    best: bool = False,
) -> Path:
    """Write a run's acting policy (encoder, posterior, actor) as programs, and a contract beside them; returns the folder.

    One call of the program is one decision: observations, state and noise go in, the action in the environment's units and
    the next state come out; ``contract.json`` names each array with shape, dtype, bounds, initial value or distribution.
    Given an agent's own noise, the program follows its ``act`` to rounding.

    Args:
        run: the run's folder, or an agent.
        folder: where to write; ``export`` in the run's folder by default, which an agent has none of.
        format: ``"stablehlo"`` for ``jax.export`` on CPU, CUDA and TPU, ``"onnx"``, or ``"both"``.
        acts_by: ``"greedy"`` for the best action, ``"sample"`` for samples of the policy.
        step, best: of the checkpoint, see :func:`load_agent`.

    Raises:
        ConfigError: another format, or an agent without a folder. MissingExtra: the format's library is not installed.
        NotExportable: the format cannot hold the policy.
    """
    if format not in get_args(Format):
        raise ConfigError(f"format must be one of {', '.join(get_args(Format))}, found {format!r}")
    if isinstance(run, Agent):
        if folder is None:
            raise ConfigError(
                "an agent belongs to no folder: say where to write, as in export_policy(agent, 'exported')"
            )
        agent, target = run, at_home(folder)
    else:
        agent = load_agent(run, step, best=best)
        target = at_home(run) / "export" if folder is None else at_home(folder)
    decision = policy_step(agent, acts_by)
    programs = {name: _program(decision, name) for name in _FILES if format in (name, "both")}
    for name, data in programs.items():
        with replacing(target / _FILES[name]) as temporary:
            temporary.write_bytes(data)
    write_json(target / CONTRACT, contract(agent, decision, acts_by, programs))
    return target


def _program(decision: PolicyStep, name: str) -> bytes:
    inputs = {port.name: (port.shape, port.dtype) for port in decision.inputs}
    if name == "stablehlo":
        return to_stablehlo(decision.function, inputs)
    outputs = [port.name for port in decision.outputs]
    return to_onnx(decision.function, inputs, outputs, {"made_by": f"jaxdreamer {__version__}", "contract": CONTRACT})


def contract(agent: Agent, decision: PolicyStep, acts_by: ActsBy, programs: dict[str, bytes]) -> dict[str, Any]:
    """What ``contract.json`` holds, JSON-ready."""
    files = {
        name: {"name": _FILES[name], "sha256": hashlib.sha256(data).hexdigest(), "read_by": _READ_BY[name]}
        for name, data in programs.items()
    }
    if "stablehlo" in files:
        files["stablehlo"]["platforms"] = ",".join(PLATFORMS)
    return {
        "version": 1,
        "made_by": f"jaxdreamer {__version__}",
        "task": agent.config.env.id,
        "backend": agent.config.env.backend,
        "checkpoint": agent.step,
        "acts_by": acts_by,
        "files": files,
        "batch": "every array has a leading axis, of one size for all; each place in it is an episode of its own",
        "control": _control(agent),
        "observations": [port.describe() for port in decision.observations],
        "is_first": decision.is_first.describe(),
        "state": [port.describe() for port in decision.state],
        "noise": [port.describe() for port in decision.noise],
        "actions": [port.describe() for port in decision.actions],
    }


def _control(agent: Agent) -> dict[str, Any]:
    """How often the policy decided while it learned."""
    seconds, repeat = agent.spec.step_seconds, agent.config.env.action_repeat
    if seconds is None:
        why = "the environment does not say how much time a step of it takes (an attribute `dt`, in seconds)"
        return {"rate_hz": None, "action_repeat": repeat, "why": why}
    why = f"the environment's step of {seconds:g} s, {repeat} for each action"
    return {"rate_hz": 1.0 / (seconds * repeat), "action_repeat": repeat, "why": why}
