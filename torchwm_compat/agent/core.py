"""torchwm's ``Dreamer``: an agent's networks, replay and optimizers, stepped by hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer import Batch, EnvError, EnvSpec, TrainState, world_model_loss
from torchwm_compat.agent.memory import ReplayBuffer, image_spec
from torchwm_compat.agent.play import Player
from torchwm_compat.arrays import answer_like, as_jax, is_tensor, to_float, to_numpy
from torchwm_compat.config.mapping import to_jaxdreamer, warn_ignored
from torchwm_compat.config.settings import DreamerConfig, as_config, override
from torchwm_compat.files import checkpoint, pretrained, weights
from torchwm_compat.networks.programs import Programs, State, make_programs
from torchwm_compat.networks.views import (
    RSSM,
    ActionDecoder,
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    as_pixels,
    features,
)

_log = logging.getLogger("torchwm_compat")


def preprocess_obs(obs: Any) -> Any:
    """Images 0 to 255 as floats -0.5 to 0.5, in the kind given."""
    return obs.float() / 255.0 - 0.5 if is_tensor(obs) else answer_like(obs)(to_float(obs) / np.float32(255) - 0.5)


class Dreamer:
    """World model, actor and critic with their replay and optimizers.

    ``rssm``, ``actor``, ``obs_encoder``, ``obs_decoder``, ``reward_model``, ``value_model`` (and ``discount_model``) are
    views of :attr:`params`. Actions are in [-1, 1]; a choice among n is n numbers, of which the largest counts.
    """

    algo: ClassVar[str | None] = None  # None: what the configuration says

    def __init__(
        self,
        args: DreamerConfig,
        obs_shape: Any,
        action_size: int,
        device: Any = None,
        restore: bool = False,
        *,
        spec: EnvSpec | None = None,
    ) -> None:
        """``restore``: begin with ``args.checkpoint_path``. ``spec`` describes discrete actions and state vectors, too."""
        if self.algo is not None:
            args.algo = self.algo
        self.args, self.device = args, "cpu" if device is None else device
        self.obs_shape, self.action_size = tuple(obs_shape), int(action_size)
        warn_ignored(args)
        self.config = to_jaxdreamer(args)
        self.spec = spec or image_spec(obs_shape, action_size)
        self._processor = jax.devices("cpu")[0] if args.no_gpu else jax.devices()[0]
        self.programs: Programs = make_programs(self.config, self.spec)
        with jax.default_device(self._processor):
            key_state, self._key = jax.random.split(jax.random.key(self.config.seed))
            self.state: TrainState = self.programs.learner.init(key_state)
        self.layout = weights.layout(self.programs.shapes, self.spec)
        sizes = (args.buffer_size, obs_shape, action_size, args.train_seq_len, args.batch_size)
        self.data_buffer = ReplayBuffer(*sizes, spec=self.spec, seed=self.config.seed)
        self.metrics: dict[str, float] = {}
        self.posterior: State = {}
        self._make_views()
        self.world_model_opt = checkpoint.Optimizer(self, "world_model_optimizer")
        self.actor_opt = checkpoint.Optimizer(self, "actor_optimizer")
        self.value_opt = checkpoint.Optimizer(self, "value_optimizer")
        self.player = Player(self)
        if restore:
            self.restore_checkpoint(args.checkpoint_path)

    def _make_views(self) -> None:
        model, shape = self.config.model, self.obs_shape
        sizes = {name: getattr(model, name) for name in ("stoch_size", "deter_size", "hidden_size")}
        sizes |= {"action_size": self.action_size, "embedding_size": model.embed_size}
        self.rssm: RSSM = RSSM.of(self, "rssm", **sizes)
        self.actor: ActionDecoder = ActionDecoder.of(self, "actor", action_size=self.action_size)
        sizes = {"embed_size": model.embed_size, "depth": model.cnn_depth}
        self.obs_encoder: ConvEncoder = ConvEncoder.of(self, "obs_encoder", input_shape=shape, **sizes)
        self.obs_decoder: ConvDecoder = ConvDecoder.of(self, "obs_decoder", output_shape=shape)
        heads = {"reward_model": model.reward_layers, "value_model": model.critic_layers}
        if model.discount_head:
            heads["discount_model"] = model.discount_layers
        for name, layers in heads.items():
            dist = "binary" if name == "discount_model" else "normal"
            view = DenseDecoder.of(self, name, n_layers=layers, units=model.units, dist=dist, output_shape=(1,))
            setattr(self, name, view)

    @classmethod
    def from_config(
        cls,
        config: Any = None,
        *,
        obs_shape: Any = None,
        action_size: int | None = None,
        device: Any = None,
        restore: bool | None = None,
        **overrides: Any,
    ) -> Dreamer:
        """From a DreamerConfig, dictionary, YAML path or text; the shapes of an environment must be given."""
        args = override(as_config(config), overrides)
        if obs_shape is None or action_size is None:
            raise ValueError("obs_shape and action_size are required to construct Dreamer: give the environment's")
        return cls(args, obs_shape, action_size, device, args.restore if restore is None else restore)

    @classmethod
    def from_pretrained(
        cls,
        path: Any,
        *,
        config: Any = None,
        checkpoint_filename: str | None = None,
        config_filename: str = "config.yaml",
        repo_type: str | None = None,
        revision: str | None = None,
        map_location: Any = None,
        device: Any = None,
        **overrides: Any,
    ) -> Dreamer:
        """From a folder, a file or a Hugging Face repository, see :meth:`DreamerAgent.from_pretrained`."""
        found = pretrained.find(path, checkpoint_filename, config_filename, repo_type=repo_type, revision=revision)
        args, data = pretrained.load(found, config, overrides)
        if "obs_shape" not in data or "action_size" not in data:
            raise checkpoint.CheckpointError(f"{found.checkpoint} lacks obs_shape or action_size")
        dreamer = cls(args, data["obs_shape"], data["action_size"], device or map_location)
        dreamer.take(data, found.checkpoint)
        return dreamer

    # ---- parameters ------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Any:
        """jaxdreamer's parameters: ``{"model", "actor", "critic"}``."""
        return self.state.params

    def state_dicts(self) -> dict[str, weights.StateDict]:
        """Copies of all parameters by torchwm's modules and names."""
        return weights.to_torch(jax.device_get(self.params), self.spec)

    def load_state_dicts(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the parameters of some modules. ValueError, naming the key and shapes, where one does not fit."""
        found = self.state_dicts()
        for module, state in states.items():
            found[module] = checkpoint.check_state("state_dict", module, state, self.layout)
        params = jax.tree.map(jnp.asarray, weights.to_jax(found, self.params, self.spec))
        self.state = self.state._replace(params=params)

    def save(self, path: Any, state: TrainState | None = None) -> None:
        """Write ``state``, the current one by default, so that torchwm reads it. MissingExtra without torch."""
        checkpoint.write(path, self, self.state if state is None else state)

    def restore_checkpoint(self, path: Any, map_location: Any = None) -> None:
        """Load parameters and optimizers; torchwm's files lack the value model, which then stays as it is.

        Raises:
            FileNotFoundError, CheckpointError: with the file, the key and the shapes.
        """
        self.take(checkpoint.read(Path(path).expanduser()), path)

    def take(self, data: Mapping[str, Any], path: Any) -> None:
        """Load parameters and optimizers from the contents of a file, read already."""
        self.state = checkpoint.restore(path, self.state, self.spec, data)

    # ---- learning --------------------------------------------------------------------------------------------------

    def train_one_batch(self) -> list[float]:
        """One update on a batch from ``data_buffer``: [model loss, actor loss, value loss]; all metrics are in ``metrics``.

        Raises FloatingPointError where a loss or gradient is not finite; parameters are then those of before.
        """
        if self.args.train_seq_len <= 1:
            _log.warning(
                "train_seq_len %d leaves nothing to learn from, as in torchwm: no update was done (agent.train() learns "
                "from single entries)",
                self.args.train_seq_len,
            )
            return [0.0, 0.0, 0.0]
        return self.train_on(self.data_buffer.sample_batch())

    def train_on(self, batch: Batch) -> list[float]:
        """:meth:`train_one_batch` on a given batch."""
        with jax.default_device(self._processor):
            self.state, metrics = self.programs.learner.update(self.state, batch)
        self.metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_finite(self.metrics)
        return [self.metrics[f"loss/{name}"] for name in ("model", "actor", "critic")]

    def world_model_loss(self, obs: Any, acs: Any, rews: Any, nonterms: Any) -> Any:
        """The world model's loss on torchwm's time-major batch; ``posterior`` then holds the inferred states.

        Images [L, n, C, H, W] 0 to 255, actions [L, n, A] taken there, rewards and nonterminals [L, n, 1] that followed: the
        first image and the last action take no part. Raises FloatingPointError where the loss is not finite.
        """
        answer, batch = answer_like(obs, acs), old_batch(obs, acs, rews, nonterms)
        model, statistics = self.params["model"], self.state.aux["statistics"]
        networks = self.programs.networks
        loss, output = jax.jit(lambda m, s, b, key: world_model_loss(networks, self.config, m, b, key, s))(
            model, statistics, batch, self.next_key()
        )
        _check_finite({"loss/model": float(loss)})
        embed = networks.encode(model, networks.prepare(statistics, batch.obs))
        part = networks.rssm.embed_part(model, embed)
        dist = networks.rssm.posterior(model, output.latent.deter, part)
        statistics = {"mean": dist.loc, "std": dist.std} if hasattr(dist, "loc") else {"logits": dist.logits}
        self.posterior = answer(statistics | {"stoch": output.latent.stoch, "deter": output.latent.deter})
        return answer(loss)

    # ---- acting ----------------------------------------------------------------------------------------------------

    def act_with_world_model(
        self, obs: Mapping[str, Any], prev_state: State, prev_action: Any, explore: bool = False
    ) -> tuple[State, Any]:
        """(posterior state, action [1, A]) for an observation; without ``explore`` the best of 100, and no noise.

        EnvError, naming the key, for an observation that is not finite: no state after it would be finite.
        """
        answer = answer_like(prev_state, prev_action)
        raw = {key: np.asarray(to_numpy(obs[key]))[None] for key in self.spec.obs}
        for key, value in raw.items():
            if not np.isfinite(value).all():
                raise EnvError(f"observation {key!r} holds numbers that are not finite: {value[0]}")
        embed = answer(self.obs_encoder(raw))
        posterior, _ = self.rssm.observe_step(prev_state, prev_action, embed)
        action = self.actor(features(posterior), deter=not explore)
        if explore:
            action = self.actor.add_exploration(action, self.args.action_noise)
        return posterior, action

    def act_and_collect_data(self, env: Any, collect_steps: int) -> np.ndarray:
        """Play ``collect_steps`` exploring steps into ``data_buffer``; returns of the episodes, the last maybe unfinished.

        Continues where the last call left the same environment; torchwm begins an episode at every call.
        """
        return self.player.collect(env, collect_steps, explore=True)

    def collect_random_episodes(self, env: Any, seed_steps: int) -> np.ndarray:
        """The same with actions from ``env.action_space.sample()``."""
        return self.player.collect(env, seed_steps, explore=False)

    def evaluate(self, env: Any, eval_episodes: int, render: bool = False) -> tuple[np.ndarray, np.ndarray, Any]:
        """(returns [E], videos, latents) of whole episodes without exploration; the last two with ``render`` only."""
        return self.player.evaluate(env, eval_episodes, render)

    # ---- small things ----------------------------------------------------------------------------------------------

    def next_key(self) -> Any:
        """A fresh random key."""
        self._key, key = jax.random.split(self._key)
        return key


class DreamerV1(Dreamer):
    """Dreamer V1, whatever the configuration's ``algo`` says."""

    algo = "Dreamerv1"


class DreamerV2(Dreamer):
    """Dreamer V2 as published, whatever the configuration's ``algo`` says."""

    algo = "Dreamerv2"


def old_batch(obs: Any, acs: Any, rews: Any, nonterms: Any) -> Batch:
    """torchwm's batch as jaxdreamer's: entry t of it holds obs[t + 1] and what led there."""
    image = jnp.asarray(as_pixels(np.moveaxis(to_float(obs), -3, -1)[1:]))
    acs = as_jax(acs)
    rews, nonterms = (as_jax(x).reshape(acs.shape[:2])[:-1] for x in (rews, nonterms))  # [L, n] or [L, n, 1]
    ended = nonterms == 0  # the action before led into a new episode: its step starts from zeros
    return Batch({"image": image}, acs[:-1], rews, is_first=ended, is_last=ended, is_terminal=ended)


def _check_finite(metrics: Mapping[str, float]) -> None:
    checked = {name: value for name, value in metrics.items() if name.startswith(("loss/", "grad_norm/"))}
    if bad := [name for name, value in checked.items() if not np.isfinite(value)]:
        raise FloatingPointError(f"not finite: {', '.join(bad)}; look for inf and nan in rewards and observations")
