"""torchwm's ``.pt`` files, read without running anything in them, and written so that torchwm reads them.

Keys are torchwm's: ``config, obs_shape, action_size``, a state dictionary for each module, and three Adam states. Added
under new ones are ``value_model``, which torchwm forgets, and ``jaxdreamer``: what else resuming needs.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdreamer import EnvSpec, TrainState
from torchwm_compat.arrays import require_torch, to_numpy
from torchwm_compat.config.fields import ALIASES, KNOWN
from torchwm_compat.config.settings import DreamerConfig
from torchwm_compat.files import weights

_log = logging.getLogger("torchwm_compat")

MODULES = ("rssm", "actor", "reward_model", "obs_encoder", "obs_decoder", "discount_model", "value_model")
# torchwm's optimizers: jaxdreamer's name of each, and the modules whose parameters it has, in order.
OPTIMIZERS = {
    "actor_optimizer": ("actor", ("actor",)),
    "value_optimizer": ("critic", ("value_model",)),
    "world_model_optimizer": (
        "model",
        ("rssm", "obs_encoder", "obs_decoder", "reward_model", "discount_model", weights.EXTRA),
    ),
}


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged or refused, or is of other networks."""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary in a torch file, which may hold tensors and plain values only.

    Raises:
        FileNotFoundError: no such file. CheckpointError: it is truncated, or holds more than weights, and is refused.
        MissingExtra: torch is not installed.
    """
    torch = require_torch("reading a torch checkpoint")
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, say, which would be waited for
        raise CheckpointError(f"{path} is no ordinary file")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, of files that are refused
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    inside = sum(entry.file_size for entry in archive.infolist())
                if inside > os.fstat(file.fileno()).st_size:  # torch does not compress: it is made to fill the memory
                    raise CheckpointError(
                        f"{path} is refused: it would unpack to {inside:,} bytes, more than it has itself"
                    )
            file.seek(0)
            data = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, CheckpointError):
        raise
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise CheckpointError(f"{path} is truncated or damaged: {_first_line(error)}") from error
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors and plain values, and loading it would run code of its "
            f"author's choice ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, IndexError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged, or no torch file: {_first_line(error)}") from error
    if not isinstance(data, dict) or not isinstance(data.get("rssm"), Mapping):
        raise CheckpointError(f"{path} is no Dreamer checkpoint: expected a dictionary with the key 'rssm'")
    return data


def config_of(data: Mapping[str, Any]) -> DreamerConfig | None:
    """The configuration that a checkpoint carries; fields of another version of torchwm are left out with a warning."""
    stored = data.get("config")
    if not isinstance(stored, Mapping):
        return None
    known = KNOWN.keys() | ALIASES.keys()
    unknown = sorted(set(stored) - known)
    if unknown:
        _log.warning("the checkpoint's configuration has fields that are unknown here: %s", ", ".join(unknown))
    return DreamerConfig.from_dict({key: value for key, value in stored.items() if key in known})


def check_state(
    path: Any, module: str, state: Mapping[str, Any], entries: list[weights.Entry]
) -> dict[str, np.ndarray]:
    """A module's state dictionary as arrays; CheckpointError, naming file, key and shapes, where it does not fit."""
    expected = {entry.name: entry.shape for entry in entries if entry.module == module}
    for name in [*expected, *state]:
        key = f"{path}: {module}.{name}"
        if name not in state:
            raise CheckpointError(f"{key} is missing: expected shape {expected[name]}")
        if name not in expected:
            raise CheckpointError(f"{key} is not a parameter of this configuration's networks")
        found = tuple(to_numpy(state[name]).shape)
        if found != expected[name]:
            raise CheckpointError(
                f"{key} has shape {found}, this configuration's networks have {expected[name]}: is it of other sizes?"
            )
    return {name: to_numpy(state[name]).astype(np.float32) for name in expected}


def restore(path: Any, state: TrainState, spec: EnvSpec, data: Mapping[str, Any]) -> TrainState:
    """``state`` with what the file holds put into it; a value model that is absent stays as it was, with a warning."""
    entries = weights.layout(state.params, spec)
    found = weights.to_torch(state.params, spec)
    for module in [*MODULES, weights.EXTRA]:
        if module not in found:
            continue
        stored = data.get(module)
        if stored is None:
            absent = "the value model, which torchwm does not save," if module == "value_model" else module
            _log.warning("%s: %s is absent and stays as it was", path, absent)
            continue
        found[module] = check_state(path, module, stored, entries)
    own = data.get("jaxdreamer") or {}
    params = _device(weights.to_jax(found, state.params, spec))
    target = own.get("target_critic")
    if target is None:
        target_critic = jax.tree.map(jnp.copy, params["critic"])
    else:
        target = check_state(path, "value_model", target, entries)
        target_critic = _device(weights.to_jax({**found, "value_model": target}, state.params, spec)["critic"])
    counters = {name: jnp.asarray(int(value), jnp.int32) for name, value in own.get("counters", {}).items()}
    key = own.get("key")
    return state._replace(
        params=params,
        aux=state.aux | {"target_critic": target_critic},
        optimizers=_restore_optimizers(path, data, state, spec),
        **counters,
        **({} if key is None else {"key": jax.random.wrap_key_data(jnp.asarray(to_numpy(key).astype(np.uint32)))}),
    )


def write(path: Any, dreamer: Any, state: TrainState) -> Path:
    """Write a state of ``dreamer``, whole or not at all, with ``config.yaml`` beside it; returns the path."""
    torch = require_torch("writing a torch checkpoint")
    args, spec = dreamer.args, dreamer.spec
    state = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
    tensors = lambda arrays: {name: torch.as_tensor(np.array(array)) for name, array in arrays.items()}  # noqa: E731
    modules = {name: tensors(arrays) for name, arrays in weights.to_torch(state.params, spec).items()}
    target = weights.to_torch({**state.params, "critic": state.aux["target_critic"]}, spec)["value_model"]
    data = {
        "config": args.to_dict(),
        "obs_shape": tuple(int(size) for size in dreamer.obs_shape),
        "action_size": int(dreamer.action_size),
        **{name: modules.get(name) for name in MODULES},
        **{name: modules[name] for name in modules if name == weights.EXTRA},
        **optimizer_dicts(state, spec, dreamer.config.optimizer),
        "jaxdreamer": {
            "target_critic": tensors(target),
            "counters": {name: int(getattr(state, name)) for name in ("updates", "skipped", "skipped_in_a_row")},
            "key": torch.as_tensor(state.key.astype(np.int64)),
        },
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(data, temporary)
    os.replace(temporary, path)
    args.to_yaml(path.parent / "config.yaml")
    return path


# ---- optimizers: torch.optim.Adam's states, and optax's ---------------------------------------------------------------


def moments(state: TrainState, which: str, spec: EnvSpec) -> dict[str, weights.StateDict]:
    """All of Adam's ``mu`` or ``nu`` by torchwm's modules and names."""
    import optax

    parts = {}
    for name, own in state.optimizers.items():
        _, named = ravel_pytree(state.params[name])  # optimizers keep one vector of all tensors
        parts[name] = named(optax.tree_utils.tree_get(own, which))
    return weights.to_torch(parts, spec)


def param_group(name: str, rates: Any) -> dict[str, Any]:
    """Adam's settings for one of torchwm's optimizers; ``rates`` has the learning rates."""
    return {
        "lr": getattr(rates, f"{OPTIMIZERS[name][0]}_learning_rate"),
        "betas": (0.9, 0.999),
        "eps": rates.adam_epsilon,
    }


def optimizer_dicts(state: TrainState, spec: EnvSpec, rates: Any) -> dict[str, Any]:
    """torch's state dictionaries of the three optimizers, by torchwm's names; ``rates`` has the learning rates."""
    import optax

    torch = require_torch("an optimizer's state in torch's form")
    mu, nu = moments(state, "mu", spec), moments(state, "nu", spec)
    dicts = {}
    for name, (own, modules) in OPTIMIZERS.items():
        count = float(optax.tree_utils.tree_get(state.optimizers[own], "count"))
        names = [(module, key) for module in modules for key in mu.get(module, {})]
        adam = torch.optim.Adam([torch.zeros(0)], **param_group(name, rates))
        group = adam.state_dict()["param_groups"][0] | {"params": list(range(len(names)))}
        states = {
            index: {
                "step": torch.tensor(count),
                "exp_avg": torch.as_tensor(np.array(mu[module][key])),
                "exp_avg_sq": torch.as_tensor(np.array(nu[module][key])),
            }
            for index, (module, key) in enumerate(names)
        }
        dicts[name] = {"state": states if count else {}, "param_groups": [group]}
    return dicts


class Optimizer:
    """One of an agent's optimizers, to look at as torch shows it."""

    def __init__(self, dreamer: Any, name: str) -> None:
        self._dreamer, self._name = dreamer, name

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One group: the learning rate and Adam's settings."""
        return [param_group(self._name, self._dreamer.config.optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """As in a checkpoint. MissingExtra without torch."""
        dreamer = self._dreamer
        return optimizer_dicts(dreamer.state, dreamer.spec, dreamer.config.optimizer)[self._name]


def _restore_optimizers(path: Any, data: Mapping[str, Any], state: TrainState, spec: EnvSpec) -> Any:
    """optax's states; Adam starts anew where the file has none of its moments."""
    import optax

    entries = weights.layout(state.params, spec)
    found: dict[str, dict[str, weights.StateDict]] = {"exp_avg": {}, "exp_avg_sq": {}}
    counts = {}
    for name, (own, modules) in OPTIMIZERS.items():
        stored = (data.get(name) or {}).get("state") or {}
        counts[own] = 0
        for index, entry in enumerate(entry for module in modules for entry in entries if entry.module == module):
            key = f"{entry.module}.{entry.name}"
            if stored and index not in stored:
                raise CheckpointError(f"{path}: {name} has no state of parameter {index}, {key}")
            for part, tree in found.items():
                array = to_numpy(stored[index][part]) if stored else np.zeros(entry.shape, np.float32)
                if array.shape != entry.shape:
                    raise CheckpointError(
                        f"{path}: {name}.{part} of {key} has shape {array.shape}, "
                        f"this configuration's networks have {entry.shape}"
                    )
                tree.setdefault(entry.module, {})[entry.name] = array
            counts[own] = int(stored[index]["step"]) if stored else 0
    mu, nu = (weights.to_jax(tree, state.params, spec) for tree in found.values())
    restored = {}
    for own, count in counts.items():
        flat = {"mu": ravel_pytree(mu[own])[0], "nu": ravel_pytree(nu[own])[0]}
        values = {**flat, "count": jnp.asarray(count, jnp.int32)}
        restored[own] = optax.tree_utils.tree_set(state.optimizers[own], **values)
    return state.optimizers | restored


def _device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
