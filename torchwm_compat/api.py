"""torchwm's factories by name: ``create_model("dreamer", env="walker-walk")``, ``make_env("CartPole-v1", "gym")``."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import gymnasium

from jaxdreamer import ConfigError
from torchwm_compat.config.mapping import BACKENDS, NOT_OFFERED, is_model
from torchwm_compat.config.settings import DreamerConfig, as_config, override

_INVALID = "Invalid config override(s)"  # torchwm's words


class ModelSpec(NamedTuple):
    """A model that :func:`create_model` makes."""

    name: str
    import_path: str
    config_path: str | None = None
    description: str = ""
    aliases: tuple[str, ...] = ()


class EnvBackendSpec(NamedTuple):
    """A backend of :func:`make_env`."""

    name: str
    factory_path: str
    description: str = ""
    aliases: tuple[str, ...] = ()


def _model(name: str, path: str, description: str, alias: str) -> ModelSpec:
    return ModelSpec(
        name, f"torchwm_compat.{path}", "torchwm_compat.config.settings:DreamerConfig", description, (alias,)
    )


def _backend(name: str, path: str, description: str, own: str | None = None) -> EnvBackendSpec:
    spellings = tuple(word for word, found in BACKENDS.items() if found == (own or name) and word != name)
    return EnvBackendSpec(name, f"torchwm_compat.{path}", description, spellings or ("default",))


MODEL_SPECS = {
    spec.name: spec
    for spec in (
        _model("dreamer", "agent.dreamer:DreamerAgent", "An agent with its environments, V1 or V2.", "dreamer_agent"),
        _model("dreamer-v1", "agent.core:DreamerV1", "Gaussian latents, gradients through the dynamics.", "dreamerv1"),
        _model("dreamer-v2", "agent.core:DreamerV2", "Categorical latents, KL balancing, target critic.", "dreamerv2"),
    )
}
ENV_BACKEND_SPECS = {
    spec.name: spec
    for spec in (
        _backend("auto", "api:make_any_env", "By what the id looks like."),
        _backend("gym", "envs.image_env:GymImageEnv", "Gymnasium, and ready environments."),
        _backend("dmc", "envs.image_env:DeepMindControlEnv", "DeepMind Control Suite."),
        _backend("mujoco", "envs.mujoco:make_mujoco_env", "Gymnasium's MuJoCo tasks, MJCF and MJB models."),
        _backend("robotics", "envs.robotics:make_robotics_env", "Gymnasium-Robotics, and MuJoCo's old ids."),
        _backend("brax", "envs.image_env:BraxImageEnv", "Brax, stepped from the host."),
        _backend("unity", "envs.image_env:UnityMLAgentsEnv", "Unity ML-Agents players.", "unity_mlagents"),
    )
}

# torchwm's further models and backends: known by name, and not part of this project.
OTHER_MODELS = ("dreamer-v3", "dreamerv3", "planet", "jepa", "iris", "genie", "genie-small", "genie-large", "diamond", "dit",
                "modular-rssm")  # fmt: skip
OTHER_BACKENDS = (*NOT_OFFERED, "atari", "ale", "world-model", "wm")


def list_models() -> list[str]:
    """Names for :func:`create_model`."""
    return sorted(MODEL_SPECS)


def get_model_spec(name: str) -> ModelSpec:
    """The model of a name or alias, in any spelling. Raises ValueError with the names there are."""
    return _resolve(MODEL_SPECS, name, "model", "Available models", OTHER_MODELS)


def list_env_backends() -> list[str]:
    """Names for :func:`make_env`."""
    return sorted(ENV_BACKEND_SPECS)


def get_env_backend_spec(name: str) -> EnvBackendSpec:
    """The backend of a name or alias, in any spelling. Raises ValueError with the names there are."""
    return _resolve(ENV_BACKEND_SPECS, name, "environment backend", "Available", OTHER_BACKENDS)


def create_config(model: str, **overrides: Any) -> DreamerConfig:
    """A model's configuration with fields overridden. ValueError for one that is no field."""
    get_model_spec(model)
    return override(DreamerConfig(), overrides, _INVALID)


def create_model(model: str, config: Any = None, **overrides: Any) -> Any:
    """A model by name; overrides that are fields go to the configuration, others to the constructor."""
    spec = get_model_spec(model)
    args = as_config(config)
    known = {name: value for name, value in overrides.items() if hasattr(args, name)}
    override(args, known, _INVALID)
    rest = {name: value for name, value in overrides.items() if name not in known}
    missing = [name for name in ("obs_shape", "action_size") if name not in rest and spec.name != "dreamer"]
    if missing:
        raise ValueError(f"{spec.name} needs {', '.join(missing)}: give those of the environment")
    return _load(spec.import_path)(args, **rest)


def make_env(env_id: Any, backend: str = "auto", **kwargs: Any) -> Any:
    """One environment by id, path or instance; ``backend`` is one of :func:`list_env_backends`."""
    return _load(get_env_backend_spec(backend).factory_path)(env_id, **kwargs)


def make_any_env(env_id: Any, **kwargs: Any) -> Any:
    """By what the id looks like: models are MuJoCo's, ``domain-task`` is dm_control's, all others are Gymnasium's."""
    if isinstance(env_id, str) and is_model(env_id):
        return make_env(env_id, "mujoco", **kwargs)
    if isinstance(env_id, str) and env_id not in gymnasium.registry and "-" in env_id and env_id == env_id.lower():
        return make_env(env_id, "dmc", **kwargs)
    return make_env(env_id, "gym", **kwargs)


def list_envs(model: str | None = None) -> Any:
    """Ids known here, by model or of one: what the installed Gymnasium registers."""
    catalog = {name.replace("-", ""): sorted(gymnasium.registry) for name in MODEL_SPECS}
    return catalog if model is None else catalog[get_model_spec(model).name.replace("-", "")]


def _resolve(specs: dict[str, Any], name: str, what: str, available: str, others: tuple[str, ...]) -> Any:
    wanted = _plain(name)
    for spec in specs.values():
        if wanted in (_plain(spec.name), *map(_plain, spec.aliases)):
            return spec
    if wanted in map(_plain, others):
        raise ConfigError(
            f"{what} {name!r} is not part of this project, which is Dreamer only. {available}: {', '.join(sorted(specs))}"
        )
    raise ValueError(f"Unknown {what} {name!r}. {available}: {', '.join(sorted(specs))}")


def _plain(name: str) -> str:
    return str(name).strip().lower().replace("_", "-")


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
