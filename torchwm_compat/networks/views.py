"""torchwm's networks as views of an agent's parameters: its names, shapes and call shapes over jaxdreamer's networks.

A view reads the agent's current parameters whenever it is called, takes numpy, JAX or torch arrays and answers in the
kind it was given. What only a torch module can do (gradients through it, parameters to change in place) is not offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxdreamer import Normal, UnitNormal, explore
from torchwm_compat.arrays import answer_like, as_jax, is_tensor, tensors_or_arrays, to_float, to_numpy
from torchwm_compat.networks.distributions import Independent
from torchwm_compat.networks.programs import State

_HARMLESS = ("to", "train", "eval", "cpu", "cuda", "requires_grad_")


class View:
    """One of an agent's networks; agents make them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"{type(self).__name__} alone is not offered: networks are views of an agent's parameters, take them from one "
            "(agent.dreamer.rssm, .actor, .obs_encoder, ...); to build networks of your own use jaxdreamer.make_networks"
        )

    @classmethod
    def of(cls, dreamer: Any, name: str, **attributes: Any) -> Any:
        """The view of ``dreamer``'s module called ``name``."""
        view = object.__new__(cls)
        view.__dict__.update(_dreamer=dreamer, _name=name, training=True, **attributes)
        return view

    @property
    def _model(self) -> Any:
        return self._dreamer.params["model"]

    @property
    def _programs(self) -> Any:
        return self._dreamer.programs

    def state_dict(self) -> dict[str, Any]:
        """Copies of the parameters by torchwm's names, in its shapes; tensors where torch is installed."""
        return tensors_or_arrays(self._dreamer.state_dicts().get(self._name, {}))

    def parameters(self) -> Iterator[Any]:
        """The same copies one by one, to look at: changing them changes nothing."""
        return iter(self.state_dict().values())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take parameters over. ValueError where names or shapes differ."""
        self._dreamer.load_state_dicts({self._name: {name: to_numpy(value) for name, value in state.items()}})

    @property
    def parameter_count(self) -> int:
        """How many numbers there are."""
        return sum(int(np.prod(entry.shape)) for entry in self._dreamer.layout if entry.module == self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The same as ``forward``."""
        return self.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _HARMLESS:
            return lambda *args, **kwargs: self
        raise AttributeError(
            f"{type(self).__name__} is a view of an agent's parameters and has no {name!r}: what only a torch module can do "
            "is not offered; state_dict() gives the parameters, agent.export() a torch module"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name}, {self.parameter_count:,} parameters)"


class RSSM(View):
    """The recurrent state-space model. States are dictionaries ``mean, std, stoch, deter`` (Dreamerv2: ``logits`` first)."""

    def init_state(self, batch_size: int, device: Any = None) -> State:
        """Zeros for ``batch_size`` sequences; torch tensors where ``device`` is torch's, or text and torch is installed."""
        stoch = self._programs.networks.rssm.initial((batch_size,)).stoch.shape[-1]
        widths = {"mean": stoch, "std": stoch} if not self._dreamer.config.model.classes else {"logits": stoch}
        widths |= {"stoch": stoch, "deter": self.deter_size}
        state = {name: np.zeros((batch_size, width), np.float32) for name, width in widths.items()}
        return state if device is None else tensors_or_arrays(state, device)

    def imagine_step(self, prev_state: State, prev_action: Any, nonterm: Any = 1.0) -> State:
        """One step of the prior; where ``nonterm`` is 0 the step starts from zeros (the action stays)."""
        answer = answer_like(prev_state, prev_action)
        state, action, nonterm = _inputs(prev_state, prev_action, nonterm)
        noise = self._draw(action.shape[:-1])
        return answer(self._programs.imagine(self._model, state, action, nonterm, noise))

    get_prior = imagine_step

    def observe_step(
        self, prev_state: State, prev_action: Any, obs_embed: Any, nonterm: Any = 1.0
    ) -> tuple[State, State]:
        """(posterior, prior) after the action, given the embedding of the observation that followed."""
        answer = answer_like(prev_state, prev_action, obs_embed)
        state, action, nonterm = _inputs(prev_state, prev_action, nonterm)
        noises = self._draw(action.shape[:-1]), self._draw(action.shape[:-1])
        embed = as_jax(obs_embed)
        posterior, prior = self._programs.observe(self._model, state, action, embed, nonterm, noises)
        return answer(posterior), answer(prior)

    def get_posterior(self, prev_state: State, prev_action: Any, obs_embed: Any, nonterm: Any = 1.0) -> State:
        """The posterior alone, see :meth:`observe_step`."""
        return self.observe_step(prev_state, prev_action, obs_embed, nonterm)[0]

    def observe_rollout(
        self, obs_embed: Any, actions: Any, nonterms: Any, init_state: State, seq_len: int
    ) -> tuple[State, State]:
        """(prior, posterior), this order, of ``seq_len`` steps, stacked along a first axis."""
        priors, posteriors, state = [], [], init_state
        for t in range(seq_len):
            state, prior = self.observe_step(state, actions[t], obs_embed[t], nonterms[t])
            priors.append(prior)
            posteriors.append(state)
        return _stack(priors, init_state), _stack(posteriors, init_state)

    def imagine_rollout(self, policy: Any, init_state: State, horizon: int) -> State:
        """The ``horizon`` states imagined after ``init_state``, with actions from ``policy(features, deter=False)``."""
        states, state = [], init_state
        for _ in range(horizon):
            action = policy(features(state), deter=False)
            state = self.imagine_step(state, action)
            states.append(state)
        return _stack(states, init_state)

    def get_dist(self, mean: Any, std: Any) -> Independent:
        """Independent Normals; the last axis is the event."""
        return Independent(Normal(as_jax(mean), as_jax(std)), 1, answer_like(mean, std))

    def detach_state(self, state: State) -> State:
        """A copy without torch gradients."""
        return {name: value.detach() if is_tensor(value) else value for name, value in state.items()}

    def seq_to_batch(self, state: State) -> State:
        """[T, B, ...] to [T * B, ...]."""
        return {name: value.reshape(-1, *value.shape[2:]) for name, value in state.items()}

    def forward(self, x: Any, u: Any) -> State:
        """:meth:`imagine_step` from state ``x`` by action ``u``."""
        return self.imagine_step(x, u)

    def _draw(self, shape: tuple[int, ...]) -> Any:
        """Noise for one sample of the latent."""
        return self._programs.networks.rssm.noise(self._dreamer.next_key(), shape)


class ConvEncoder(View):
    """Images to embeddings."""

    def forward(self, image: Any) -> Any:
        """Preprocessed images (:func:`preprocess_obs`) [..., 3, H, W] to [..., embed]; or raw observations by key.

        Pixels are whole numbers, 0 to 255 before preprocessing: values between them are rounded.
        """
        if isinstance(image, Mapping):
            obs, answer = image, answer_like(dict(image))
        else:
            obs, answer = {"image": as_pixels((to_float(image) + 0.5) * 255.0)}, answer_like(image)
        ready = {
            k: jnp.asarray(np.moveaxis(to_numpy(v), -3, -1) if k == "image" else to_numpy(v)) for k, v in obs.items()
        }
        return answer(self._programs.encode(self._model, self._dreamer.state.aux["statistics"], ready))


class ConvDecoder(View):
    """Features to images."""

    def forward(self, feat: Any) -> Independent:
        """[..., stoch + deter] to unit Normals over [3, H, W]."""
        mean = self._programs.decode(self._model, as_jax(feat))
        return Independent(UnitNormal(mean), 3, answer_like(feat))


class DenseDecoder(View):
    """Features to a reward, a value, or the probability that the task continues."""

    _HEADS: ClassVar[dict[str, str]] = {"reward_model": "reward", "value_model": "critic", "discount_model": "discount"}

    def forward(self, feat: Any) -> Independent:
        """[..., stoch + deter] to a distribution with one event axis of 1."""
        dist = self._programs.head(self._dreamer.params, self._HEADS[self._name], as_jax(feat))
        return Independent(dist, 1, answer_like(feat))


class ActionDecoder(View):
    """Features to actions."""

    def forward(self, feat: Any, deter: bool = False) -> Any:
        """[..., stoch + deter] to actions [..., A] in [-1, 1]: a sample, or with ``deter`` the best of 100 by density."""
        programs, params = self._programs, self._dreamer.params["actor"]
        act = programs.mode if deter else programs.sample
        return answer_like(feat)(act(params, as_jax(feat), self._dreamer.next_key()))

    def add_exploration(self, action: Any, action_noise: float = 0.3) -> Any:
        """``clip(action + action_noise * N(0, 1), -1, 1)`` on numbers, epsilon-greedy on choices."""
        amounts = {"gaussian": action_noise, "epsilon": min(1.0, action_noise)}
        key, spec = self._dreamer.next_key(), self._dreamer.spec.action
        return answer_like(action)(explore(key, as_jax(action), spec, **amounts))


def features(state: State) -> Any:
    """``concat(stoch, deter)`` in the kind of the state."""
    return answer_like(state)(jnp.concatenate([to_float(state["stoch"]), to_float(state["deter"])], axis=-1))


def as_pixels(image: Any) -> np.ndarray:
    """Floats 0 to 255 as uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _inputs(state: State, action: Any, nonterm: Any) -> tuple[State, Any, Any]:
    parts = {name: as_jax(state[name]) for name in ("stoch", "deter")}
    return parts, as_jax(action), as_jax(nonterm)


def _stack(states: list[State], like: State) -> State:
    shape = {name: (len(states), *value.shape) for name, value in like.items()}
    stacked = {name: jnp.reshape(as_jax([to_numpy(state[name]) for state in states]), shape[name]) for name in like}
    return answer_like(states[0] if states else like)(stacked)
