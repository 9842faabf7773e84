"""torchwm's factories by name: ``create_model("dreamer", env="walker-walk")``, ``make_env("CartPole-v1", "gym")``."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import gymnasium

from jaxdreamer import ConfigError
from torchwm_compat import pretrained
from torchwm_compat.config import as_config
from torchwm_compat.mapping import NOT_OFFERED

_CONFIG = "torchwm_compat.config:DreamerConfig"


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


MODEL_SPECS = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "dreamer",
            "torchwm_compat.dreamer:DreamerAgent",
            _CONFIG,
            "An agent with its environments and its run; config.algo chooses the version.",
            ("dreamer_agent",),
        ),
        ModelSpec(
            "dreamer-v1",
            "torchwm_compat.core:DreamerV1",
            _CONFIG,
            "Dreamer V1: Gaussian latents, gradients through the dynamics.",
            ("dreamerv1",),
        ),
        ModelSpec(
            "dreamer-v2",
            "torchwm_compat.core:DreamerV2",
            _CONFIG,
            "Dreamer V2: categorical latents, KL balancing, target critic.",
            ("dreamerv2",),
        ),
    )
}

ENV_BACKEND_SPECS = {
    spec.name: spec
    for spec in (
        EnvBackendSpec("auto", "torchwm_compat.api:make_any_env", "By what the id looks like.", ("default",)),
        EnvBackendSpec("gym", "torchwm_compat.envs:make_gym_env", "Gymnasium, and ready environments.", ("gymnasium",)),
        EnvBackendSpec("dmc", "torchwm_compat.api:make_dmc_env", "DeepMind Control Suite.", ("dm_control",)),
        EnvBackendSpec(
            "mujoco",
            "torchwm_compat.mujoco:make_mujoco_env",
            "Gymnasium's MuJoCo tasks, MJCF and MJB models.",
            ("mjcf", "native_mujoco"),
        ),
        EnvBackendSpec(
            "robotics",
            "torchwm_compat.robotics:make_robotics_env",
            "Gymnasium-Robotics, and MuJoCo's old ids.",
            ("gymnasium_robotics",),
        ),
        EnvBackendSpec("brax", "torchwm_compat.envs:make_brax_env", "Brax, stepped from the host.", ("jax_brax",)),
        EnvBackendSpec(
            "unity",
            "torchwm_compat.envs:make_unity_mlagents_env",
            "Unity ML-Agents players.",
            ("mlagents", "unity_mlagents"),
        ),
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


def create_config(model: str, **overrides: Any) -> Any:
    """A model's configuration with fields overridden. ValueError for one that is no field."""
    spec = get_model_spec(model)
    assert spec.config_path is not None
    config = _load(spec.config_path)()
    _apply(config, overrides)
    return config


def create_model(model: str, config: Any = None, **overrides: Any) -> Any:
    """A model by name; overrides that are fields go to the configuration, others to the constructor."""
    spec = get_model_spec(model)
    args = as_config(config)
    known = {name: value for name, value in overrides.items() if hasattr(args, name)}
    _apply(args, known)
    rest = {name: value for name, value in overrides.items() if name not in known}
    factory = _load(spec.import_path)
    if spec.name == "dreamer":
        return factory(args, **rest)
    missing = [name for name in ("obs_shape", "action_size") if name not in rest]
    if missing:
        raise ValueError(f"{spec.name} needs {', '.join(missing)}: give those of the environment")
    return factory(args, **rest)


def make_env(env_id: Any, backend: str = "auto", **kwargs: Any) -> Any:
    """One environment by id, path or instance; ``backend`` is one of :func:`list_env_backends`."""
    return _load(get_env_backend_spec(backend).factory_path)(env_id, **kwargs)


def make_any_env(env_id: Any, **kwargs: Any) -> Any:
    """By what the id looks like: models are MuJoCo's, ``domain-task`` is dm_control's, all others are Gymnasium's."""
    from torchwm_compat.mapping import is_model

    if isinstance(env_id, str) and is_model(env_id):
        return make_env(env_id, "mujoco", **kwargs)
    if isinstance(env_id, str) and env_id not in gymnasium.registry and "-" in env_id and env_id == env_id.lower():
        return make_env(env_id, "dmc", **kwargs)
    return make_env(env_id, "gym", **kwargs)


def make_dmc_env(name: str, seed: int = 0, **kwargs: Any) -> Any:
    """:class:`~torchwm_compat.envs.DeepMindControlEnv`."""
    from torchwm_compat.envs import DeepMindControlEnv

    return DeepMindControlEnv(name, seed, **kwargs)


def list_envs(model: str | None = None) -> Any:
    """Ids known here, by model or of one: what the installed Gymnasium registers."""
    found = sorted(gymnasium.registry)
    catalog = {name.replace("-", ""): list(found) for name in MODEL_SPECS}
    if model is None:
        return catalog
    name = get_model_spec(model).name.replace("-", "")
    return catalog[name]


def _apply(config: Any, overrides: dict[str, Any]) -> None:
    try:
        pretrained.override(config, overrides)
    except pretrained.NoSuchField as error:
        name = str(error).rpartition(" ")[2]
        raise ValueError(f"Invalid config override(s): {name}") from None


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
