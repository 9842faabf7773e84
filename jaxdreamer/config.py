"""Configuration: frozen dataclasses, presets as data, validation with the names of what is wrong. Imports no jax.

A preset is a name, or several joined by commas where later ones win: ``dreamer_v2,small``. A setting is named by its
group and field, ``model.deter_size``; as no field name occurs in two groups, the field alone, ``deter_size``, is enough.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from jaxdreamer import families, values
from jaxdreamer.errors import ConfigError, MissingExtra, nearest, shown
from jaxdreamer.files import FileUnusable, read_json, read_text, safe_name
from jaxdreamer.limits import check_limits, setting
from jaxdreamer.presets import PRESETS

__all__ = [
    "PRESETS",
    "BehaviorConfig",
    "Config",
    "ConfigError",
    "EnvConfig",
    "LossConfig",
    "MissingExtra",
    "ModelConfig",
    "OptimizerConfig",
    "ReplayConfig",
    "RunConfig",
    "nearest",
    "preset",
]

_MOST = 2**20  # bytes of a configuration; a whole one has a few thousand


class Settings:
    """Settings whose values become those of their types, whichever library's they were; ConfigError where they cannot."""

    def __post_init__(self) -> None:
        own: Any = type(self)
        for name, kind in hints(own).items():
            value = getattr(self, name)
            if kind is Any:  # the class reads it itself
                continue
            if not dataclasses.is_dataclass(kind):
                object.__setattr__(self, name, values.convert(kind, name, value))  # as frozen dataclasses do it
            elif not isinstance(value, kind):  # type: ignore[arg-type]
                raise ConfigError(f"{name}: expected {kind.__name__}, found {shown(value)}")  # type: ignore[union-attr]


def hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return _hints(kind)


_hints = functools.cache(get_type_hints)


@dataclass(frozen=True)
class Options(Settings):
    """Settings of an environment that only some backends have; a backend's record names its own subclass.

    An option is written ``env.NAME`` or ``NAME``. One of the same name in several backends means the same in all of them.
    """


@dataclass(frozen=True)
class CameraOptions(Options):
    """Where MuJoCo's models are seen from."""

    camera: str = ""
    """MuJoCo camera that draws, by name or number; -1 is the free camera. Empty: the task's own."""


@dataclass(frozen=True)
class DrawingOptions(CameraOptions):
    """How MuJoCo draws."""

    render_quality: Literal["auto", "full", "fast"] = "auto"
    """Drawing of MuJoCo tasks. fast: no shadows, reflections, multisampling. auto: fast where no GPU draws, else full."""


@dataclass(frozen=True)
class EnvConfig(Settings):
    """Which environment, and how it is seen and stepped."""

    id: str = "Pendulum-v1"
    """The task's name in its library."""
    backend: str = "gym"
    """Which library makes it; `jaxdreamer envs` lists what is installed."""
    obs: Literal["auto", "state", "pixels", "both"] = "auto"
    """What the agent sees: the task's own observation, rendered pixels, or both. auto: the task's own."""
    image_size: tuple[int, int] = (64, 64)
    """Height and width of every image, in pixels."""
    action_repeat: int = 1
    """Simulator steps per agent step. Stops early where the episode ends; the rewards are added up."""
    time_limit: int = 0
    """Longest episode in agent steps; reaching it ends the episode without being terminal. 0: the task's own limit."""
    num_envs: int = 1
    """Environments stepped side by side."""
    exclude: tuple[str, ...] = ()
    """Observation keys to leave out, as globs."""
    action_bound: float = 0.0
    """Half-width given to action dimensions without finite bounds. 0: such a space is refused."""
    workers: int = setting(0, 0, 1024, free=True)
    """Processes the environments run in, sharing them evenly. 0: this one."""
    worker_timeout: float = setting(120.0, 1e-3, 1e6, free=True)  # the system's own limit is 2^31 milliseconds
    """Seconds after which a worker process that does not answer is taken for hung."""
    max_restarts: int = setting(3, free=True)
    """How often in a row, with no episode finished in between, a failed worker process is started again."""
    options: Any = None
    """What only this backend has, such as BraxOptions(brax_backend="spring"), or a mapping of it. None: its defaults."""

    def __post_init__(self) -> None:
        backend = values.convert(str, "backend", self.backend)
        object.__setattr__(self, "options", _read_options(backend, self.options))
        super().__post_init__()

    @property
    def task(self) -> str:
        """What the task is called in the names of folders."""
        record = families.find(self.backend)
        return safe_name(record.label(self) if record and record.label else self.id)


def options_of(backend: str) -> type[Options]:
    """The options of a backend given by any of its names.

    Those of one that this program has not registered, or whose environments it makes itself (``custom``), are those of any
    environment on the host, which MuJoCo may draw.
    """
    record = families.find(backend)
    if record is not None and record.options is not None:
        return record.options
    return DrawingOptions if record is None or record.kind == "host" else Options


def _read_options(backend: str, given: Any) -> Options:
    """``given`` as the options of ``backend``; ConfigError for one that belongs to another backend, or to none."""
    kind = options_of(backend)
    if type(given) is kind:
        return given
    if isinstance(given, Options):  # of the backend before this one: what was set must have a meaning here, too
        given = _said(given)
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"env.options: expected {kind.__name__} or a mapping, found {shown(given)}")
    own = {item.name for item in dataclasses.fields(kind)}
    for name in [name for name in given or {} if name not in own]:
        owners = [item for item in families.records() if name in hints(options_of(item))]
        if not owners:
            raise ConfigError(f"env.options: there is no option {shown(name)}{nearest(str(name), own)}")
        raise ConfigError(
            f"env.{name} is an option of env.backend={' or '.join(owners)}; {backend} has "
            f"{', '.join(sorted(own)) or 'no options of its own'}"
        )
    return kind(**(given or {}))


def _said(options: Options) -> dict[str, Any]:
    """Those that are not at their defaults."""
    fields_ = dataclasses.fields(options)
    return {item.name: value for item in fields_ if (value := getattr(options, item.name)) != item.default}


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Sizes and kinds of the networks."""

    stoch_size: int = 30
    """Stochastic latent: Gaussian dimensions, or groups where classes > 0."""
    classes: int = 0
    """Classes per group of a categorical latent. 0: a Gaussian latent."""
    deter_size: int = 200
    """Deterministic latent size, the GRU's width."""
    hidden_size: int = 200
    """Width of the dense layers inside the RSSM."""
    embed_size: int = 1024
    """Image embedding size: a linear layer is added where the encoder's flattened output differs. 0: never."""
    cell: Literal["gru", "layer_norm_gru", "block_gru"] = "gru"
    """Recurrent cell: V1's GRU, V2's with layer norm over its gates, or V3's block-diagonal one."""
    blocks: int = 8
    """Blocks of V3's cell and of its decoder's first layer; they divide deter_size."""
    prior_layers: int = 1
    """Hidden layers of the prior."""
    unimix: float = 0.0
    """Share of a uniform distribution mixed into categorical latents (V3: 0.01)."""
    gaussian_std: Literal["softplus", "sigmoid2"] = "softplus"
    """How a Gaussian latent's deviation is made: softplus(x) + 0.1 (V1) or 2 sigmoid(x / 2) + 0.1 (V2)."""
    cnn: Literal["strided", "pooled"] = "strided"
    """Convolutions of stride 2 (V1, V2), or of stride 1 with pooling and upsampling (V3)."""
    cnn_depth: int = 32
    """Channels of the first strided convolution, doubled by each layer; pooled ones have 2, 3, 4, 4 times as many."""
    cnn_activation: Literal["relu", "elu", "silu", "tanh"] = "relu"
    """Activation of the convolutions."""
    cnn_residual: bool = False
    """Add a residual block after each convolution."""
    dense_activation: Literal["relu", "elu", "silu", "tanh"] = "elu"
    """Activation of every dense layer."""
    dense_norm: Literal["none", "layer", "rms"] = "none"
    """Normalisation before the activations: layer in the heads and the vector encoder and decoder, rms (V3) everywhere."""
    kernel_init: Literal["glorot_uniform", "trunc_normal"] = "glorot_uniform"
    """Initial weights: Keras' default (V1, V2), or a truncated normal of deviation 1 / sqrt(fan_in) (V3)."""
    units: int = 400
    """Width of the heads and of the vector encoder and decoder."""
    vector_layers: int = 4
    """Layers of the vector encoder and decoder."""
    symlog_inputs: bool = False
    """Squash vector observations, and their reconstruction targets, by symlog: for values of very many sizes."""
    normalize_inputs: bool = False
    """Bring vector observations, and their reconstruction targets, to zero mean and unit deviation by running
    statistics of what was learned from (after symlog, where both are on): for values far from unit scale."""
    reward_layers: int = 2
    """Hidden layers of the reward head."""
    discount_layers: int = 3
    """Hidden layers of the discount head."""
    critic_layers: int = 3
    """Hidden layers of the critic."""
    actor_layers: int = 4
    """Hidden layers of the actor."""
    scalar_head: Literal["normal", "two_hot", "symexp_two_hot"] = "normal"
    """Reward and value distribution: unit-variance Normal (V1, V2), or two-hot in symlog space or over symexp bins (V3), for
    rewards of any scale."""
    discount_head: bool = False
    """Learn to predict episode ends. Off: the discount is constant and an end is invisible to the dream."""
    actor_distribution: Literal["tanh_normal", "truncated_normal", "bounded_normal"] = "tanh_normal"
    """Distribution of continuous actions: V1's, V2's or V3's."""
    actor_min_std: float = 0.1
    """Smallest deviation of bounded_normal."""
    actor_max_std: float = 1.0
    """Largest deviation of bounded_normal."""
    actor_output_scale: float = 0.01
    """Initial scale of the output layers of an actor with bounded_normal."""
    actor_unimix: float = 0.01
    """Share of a uniform distribution mixed into the choices of an actor with bounded_normal."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the inputs of matrix products and convolutions; everything else is float32."""


@dataclass(frozen=True)
class LossConfig(Settings):
    """World-model loss."""

    kl_loss_coeff: float = 1.0
    """Weight of the KL term, beta."""
    free_nats: float = 3.0
    """The mean KL is not pushed below this many nats."""
    kl_balance: float | None = None
    """Share of the KL's gradient that trains the prior (V2: 0.8). none: V1's plain KL."""
    reward_loss_coeff: float = 1.0
    """Weight of the reward term."""
    discount_loss_coeff: float = 10.0
    """Weight of the discount term."""
    vector_loss_coeff: float = 1.0
    """Weight of the reconstruction of vector observations."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this before learning. Logged returns stay in the environment's units."""
    reward_transform: Literal["none", "tanh"] = "none"
    """Applied to the scaled reward before learning; V2 squashes Atari's by tanh."""
    mask_first_action: bool = False
    """Treat the first entry of each sampled sequence as an episode start (V2), not just as an unknown state (V1)."""


@dataclass(frozen=True)
class BehaviorConfig(Settings):
    """Actor, critic and exploration."""

    imagine_horizon: int = 15
    """Steps dreamed from each posterior state, H. 1: the return is the reward and the next state's value."""
    discount: float = 0.99
    """gamma."""
    td_lambda: float = 0.95
    """lambda of the lambda-return."""
    actor_gradient: Literal["auto", "dynamics", "reinforce", "both"] = "dynamics"
    """How the actor learns. auto: reinforce where every action is a choice, dynamics elsewhere."""
    actor_gradient_mix: float = 0.1
    """Share of the dynamics gradient in both."""
    actor_entropy: float = 0.0
    """Weight of the entropy bonus."""
    actor_input_gradient: bool = False
    """Let the actor's gradient also flow through the dreamed states it reads, not through its actions alone. Neither V1
    nor V2 does; torchwm does."""
    returns_from_start: bool = False
    """Train the critic on the real start state too (V2), or on dreamed ones only (V1)."""
    target_critic_every: int = 0
    """Updates between hard copies of the critic into the target critic that makes the returns. 0: no target critic."""
    update_order: Literal["joint", "sequential"] = "joint"
    """joint: all gradients from the same parameters (V1). sequential: dream with the updated world model (V2)."""
    exploration_noise: float = 0.3
    """Deviation of the Gaussian added to continuous actions while collecting."""
    exploration_epsilon: float = 0.0
    """Probability of a uniform choice for each discrete action while collecting."""


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Adam for the three parts."""

    model_learning_rate: float = 6e-4
    """World model."""
    actor_learning_rate: float = 8e-5
    """Actor."""
    critic_learning_rate: float = 8e-5
    """Critic."""
    adam_epsilon: float = 1e-7
    """Adam's epsilon."""
    grad_clip_norm: float = 100.0
    """Largest global gradient norm of each part."""
    weight_decay: float = 0.0
    """Every parameter is multiplied by 1 - this at each update, whatever the learning rate (as V2 does it)."""


@dataclass(frozen=True)
class ReplayConfig(Settings):
    """Experience and batches."""

    capacity: int = 1_000_000
    """Entries kept, over all environments."""
    batch_size: int = 50
    """Sequences per update, B."""
    batch_length: int = 50
    """Entries per sequence, T. 1: every entry stands alone, so nothing is learned of what leads to what."""
    cross_episodes: bool = True
    """Let a sequence run over an episode's end into the next (the state is reset there). Off, as V1 and V2 sample: only
    one that begins with an episode shorter than a sequence."""


@dataclass(frozen=True)
class RunConfig(Settings):
    """Budget and cadence. Steps are agent steps unless they say frames; frames = agent steps x action_repeat."""

    frames: int = 5_000_000
    """Budget in env frames, prefill included."""
    prefill: int = 2500
    """Agent steps with random actions before learning."""
    pretrain: int = 100
    """Updates once the prefill is done."""
    train_every: int = 500
    """Agent steps between trainings, over all environments. updates / train_every is the train ratio."""
    updates: int = 100
    """Updates each time."""
    updates_per_call: int = 1
    """Most updates in one compiled call; the largest divisor of updates up to this is used. More spare small models the cost
    of calling; with large ones they hold more batches in memory and keep Ctrl-C waiting."""
    eval_every: int = 5000
    """Agent steps between evaluations. 0: only at the end."""
    eval_episodes: int = 10
    """Noise-free episodes of each evaluation, on an environment and seeds of its own."""
    log_every: int = 1000
    """Agent steps between metric lines."""
    checkpoint_every: int = 10_000
    """Agent steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many checkpoints stay on disk."""
    video: bool = True
    """Save a policy video and an open-loop prediction with each evaluation, where images are seen."""
    loop: Literal["auto", "device", "host"] = "auto"
    """Where environments are stepped: inside the compiled program, or in this process. auto: on the device wherever the
    environment is made of pure functions."""


@dataclass(frozen=True)
class Config(Settings):
    """Everything a run depends on; written beside it as config.json."""

    preset: str = "dreamer_v1"
    """Where the values came from."""
    algorithm: str = "dreamer"
    """How the agent learns. dreamer: DreamerV1 and V2, which differ by their settings."""
    seed: int = 0
    """All randomness derives from it."""
    env: EnvConfig = field(default_factory=EnvConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def train_ratio(self) -> float:
        """Updates per agent step."""
        return self.run.updates / self.run.train_every


def preset(name: str = "dreamer_v1", *overrides: str, **changes: Any) -> Config:
    """The configuration of a preset, or of several joined by commas, with changes on top.

    ``preset("dreamer_v2,small", "deter_size=128")`` and ``preset("dreamer_v2", deter_size=128)`` both work; a name
    is ``group.field``, or the field alone. What comes of all of it together must be possible, not each change by itself.
    Raises ConfigError for an unknown preset or setting, with the nearest names.
    """
    settings: dict[str, Any] = {}
    for part in presets_of(name):
        settings |= PRESETS[part]
    settings |= parse_words(overrides)
    settings |= {resolve_name(key): value for key, value in changes.items()}
    if "preset" in settings:
        raise ConfigError(
            "preset: name it first, as in preset('dreamer_v2,small'); it is where all settings start from"
        )
    return replace(Config(preset=name), settings)


def presets_of(name: Any) -> list[str]:
    """The presets that a name joins; ConfigError for one that there is not."""
    if not isinstance(name, str):
        raise ConfigError(f"preset: expected a text, found {shown(name)}")
    parts = [part.strip() for part in name.split(",")]
    for part in parts:
        if part not in PRESETS:
            raise ConfigError(f"unknown preset {shown(part)}{nearest(part, PRESETS)}; there are: {', '.join(PRESETS)}")
    return parts


def fields(config: Any = None, prefix: str = "") -> dict[str, Any]:
    """Every setting with its value, by dotted name; of a backend's options those of the configuration's own."""
    config = Config() if config is None else config
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= fields(value, prefix if isinstance(value, Options) else f"{prefix}{item.name}.")
        else:
            flat[f"{prefix}{item.name}"] = value
    return flat


def resolve_name(name: str, others: Iterable[str] = ()) -> str:
    """The dotted name of a setting given with or without its group; ``env`` alone is the environment's id.

    Raises ConfigError, with the nearest names, where there is none; ``others`` are what else may be meant.
    """
    key = re.sub(r"(^|\.)options\.", r"\1", name.strip().replace("-", "_").lstrip("_"))
    known = _settings()  # first, so that no backend's record is loaded for what every one has
    if key in known or _short(known).get(key):
        return _short(known).get(key, key)
    known = types()
    aliases = _short(known)
    if key in known or key in aliases:
        return aliases.get(key, key)
    hint = nearest(key, [*others, *known, *aliases])
    raise ConfigError(f"unknown setting {shown(name)}{hint}; `jaxdreamer train --help` lists them all")


def _short(known: Iterable[str]) -> dict[str, str]:
    """The dotted name of each short one."""
    return {key.rpartition(".")[2]: key for key in known} | {"env": "env.id"}


def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """Settings, by dotted name, of ``key=value`` words."""
    settings: dict[str, Any] = {}
    for word in words:
        key, found, text = word.partition("=") if isinstance(word, str) else ("", "", "")
        if not found:
            raise ConfigError(f"expected key=value, found {shown(word)}")
        settings[resolve_name(key)] = parse(resolve_name(key), text)
    return settings


def apply(config: Config, overrides: Iterable[str]) -> Config:
    """A copy with ``key=value`` words applied."""
    return replace(config, parse_words(overrides))


def parse(key: str, text: str) -> Any:
    """The value of setting ``key``, a dotted name, written as text."""
    return values.parse(_type(key), key, text)


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A validated copy with settings changed, by dotted or bare name, converted to the type each setting has.

    Numbers, arrays and texts of numpy, jax or torch, and paths, are taken for what they say.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        key = resolve_name(name)
        group, _, leaf = key.rpartition(".")
        groups.setdefault(group, {})[leaf] = values.convert(_type(key), key, value)
    top = groups.pop("", {})
    if "env" in groups:
        top["env"] = replace_env(config.env, groups.pop("env"))
    parts = {group: dataclasses.replace(getattr(config, group), **leaves) for group, leaves in groups.items()}
    return validate(dataclasses.replace(config, **top, **parts))


def replace_env(env: EnvConfig, changes: Mapping[str, Any]) -> EnvConfig:
    """A copy with settings changed, by bare name, options of its backend among them."""
    own: dict[str, Any] = {name: value for name, value in changes.items() if name in hints(EnvConfig)}
    if options := {name: value for name, value in changes.items() if name not in own}:
        own["options"] = _said(env.options) | options
    return dataclasses.replace(env, **own)


@functools.cache
def _settings() -> dict[str, Any]:
    """The type of every setting that does not depend on the backend, by dotted name."""
    found: dict[str, Any] = {}
    for name, kind in hints(Config).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{leaf}": hint for leaf, hint in hints(kind).items() if hint is not Any}
        else:
            found[name] = kind
    return found


def types() -> dict[str, Any]:
    """The type of every setting, by dotted name; of every backend's options, too."""
    found = dict(_settings())
    for kind in (DrawingOptions, *map(options_of, families.records())):
        found |= {f"env.{leaf}": hint for leaf, hint in hints(kind).items()}
    return found


def _type(key: str) -> Any:
    return _settings().get(key) or types()[key]


def with_metadata(env: EnvConfig, name: str) -> dict[str, Any]:
    """Of the settings of ``env`` whose field's metadata has ``name``: what it says, by bare name."""
    fields_ = [*dataclasses.fields(env), *dataclasses.fields(env.options)]
    return {item.name: item.metadata[name] for item in fields_ if item.metadata.get(name)}


def validate(config: Config) -> Config:
    """The same configuration, or a ConfigError that names the first setting that cannot be."""
    own = {f"env.{name}": limits for name, limits in with_metadata(config.env, "limits").items()}
    check_limits(fields(config), own)
    presets_of(config.preset)
    if config.model.classes == 1:
        raise ConfigError("model.classes must be 0 (Gaussian latent) or at least 2, found 1")
    per_env = config.replay.capacity // config.env.num_envs
    if per_env < 2 * config.replay.batch_length:
        raise ConfigError(
            f"replay.capacity {config.replay.capacity} leaves {per_env} entries for each of {config.env.num_envs} "
            f"environments; sequences of {config.replay.batch_length} need at least {2 * config.replay.batch_length}"
        )
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, ready for JSON or YAML; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(data: Any) -> Config:
    """Read what :func:`to_dict` wrote; a missing setting takes its preset's value, an unknown one is an error."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"expected settings by their names, found {shown(data)}")
    flat: dict[str, Any] = {}
    for key, value in data.items():
        for name, inner in _members(key, value):
            name = name if name == "preset" else resolve_name(name)
            if name in flat:
                raise ConfigError(f"{name} is set twice")
            flat[name] = inner
    base = flat.pop("preset", "dreamer_v1")
    if not isinstance(base, str):
        raise ConfigError(f"preset: expected a name, found {shown(base)}")
    return replace(preset(base), flat)


def _members(key: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """The settings below ``key``, by dotted name."""
    if not isinstance(value, Mapping):
        yield f"{key}", value
        return
    for leaf, inner in value.items():
        yield from _members(f"{key}.{leaf}", inner)


def save(config: Config, path: str | Path) -> None:
    """Write as JSON."""
    Path(path).write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load(path: str | Path) -> Config:
    """Read a JSON or YAML file. ConfigError, naming the file, where it holds no configuration."""
    path = Path(path)
    try:
        data = _read_yaml(path) if path.suffix in (".yaml", ".yml") else read_json(path, _MOST)
        return from_dict(data)
    except FileUnusable as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}: mend it, or choose another folder") from error


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes 1e-3 for a number, as JSON and YAML 1.2 do."""

    exponent = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    text = read_text(path, _MOST)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 30th of February
        raise FileUnusable(f"{path} is not valid YAML ({error}): mend it, or choose another file") from error


def difference(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Settings of both that differ, by dotted name: (old, new)."""
    before, after = fields(old), fields(new)
    return {key: (before[key], after[key]) for key in after if key in before and before[key] != after[key]}
