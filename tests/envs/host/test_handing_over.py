"""What an environment does to what it was handed, and to what it handed out, is its own affair."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import LocalVectorEnv, wrap
from jaxdreamer.envs.host.mujoco_env import MuJoCoEnv
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, Timestep

ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (2,)),
    "integers": spaces.Box(-3, 3, (2,), np.int32),
    "discrete": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([3, 4]),
    "switches": spaces.MultiBinary(3),
    "dict": spaces.Dict({"a": spaces.Box(0, 2, (2,)), "b": spaces.MultiBinary(2)}),
    "tuple": spaces.Tuple((spaces.Box(0, 2, (2,)), spaces.Dict({"c": spaces.MultiDiscrete([3, 3])}))),
}


def spoil(tree):
    """Change everything that can be changed, in place."""
    if isinstance(tree, dict):
        for value in tree.values():
            spoil(value)
        tree.clear()
    elif isinstance(tree, tuple):
        for value in tree:
            spoil(value)
    elif isinstance(tree, np.ndarray):
        tree[...] = 0


class Spoiling(gymnasium.Env):
    """Pays what its action adds up to, then spoils the action; its observations are two buffers that it uses again."""

    render_mode = "rgb_array"
    observation_space = spaces.Dict(
        {"time": spaces.Box(0, 100, (2,)), "deep": spaces.Tuple((spaces.Box(0, 255, (8, 8, 3), np.uint8),))}
    )

    def __init__(self, action):
        self.action_space, self.time = ACTIONS[action], 0
        self.vector, self.image, self.frame = np.zeros(2, np.float32), *np.zeros((2, 8, 8, 3), np.uint8)

    def _observe(self):
        self.vector[:] = self.image[:] = self.frame[:] = self.time
        return {"time": self.vector, "deep": (self.image,)}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        paid = float(np.sum(spaces.flatten(self.action_space, action) * np.arange(1, 1 + self.flat)))
        spoil(action)
        self.time += 1
        return self._observe(), paid, False, self.time >= 20, {}

    @property
    def flat(self):
        return spaces.flatdim(self.action_space)

    def render(self):
        return self.frame


@pytest.mark.parametrize("name", ACTIONS)
def test_every_simulator_step_gets_an_action_of_its_own(name):
    config = {repeat: EnvConfig(action_repeat=repeat, image_size=(8, 8)) for repeat in (1, 2)}
    once, twice = (LocalVectorEnv([wrap(Spoiling(name), config[repeat])]) for repeat in (1, 2))
    action = np.linspace(0.3, 0.9, once.spec.action.size, dtype=np.float32)[None]
    kept = action.copy()
    once.step(action), twice.step(action)
    rewards = [once.step(action).reward[0] for _ in range(6)]
    assert rewards[0] != 0 and len(set(rewards)) == 1
    assert [twice.step(action).reward[0] for _ in range(3)] == [2 * rewards[0]] * 3
    np.testing.assert_array_equal(action, kept)


def test_what_was_seen_stays_as_it_was():
    env = wrap(Spoiling("box"), EnvConfig(obs="auto", image_size=(8, 8)))
    lanes = LocalVectorEnv([env])
    seen = [lanes.step(np.zeros((1, 2))) for _ in range(3)]
    frames = [lanes.render(0)]
    seen.append(lanes.step(np.zeros((1, 2))))
    frames.append(lanes.render(0))
    for time, entry in enumerate(seen):
        assert entry.obs["time"].tolist() == [[time, time]] and (entry.obs["deep.0"] == time).all()
    assert [int(frame.max()) for frame in frames] == [2, 3]


class Own:
    """An environment of the library's protocol that spoils its actions, and whose arrays are buffers."""

    spec = EnvSpec({"x": ArraySpec((1,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 2),)))
    frame_rate, can_render = 10.0, True

    def __init__(self):
        self.buffer, self.frame = np.zeros(1, np.float32), np.zeros((4, 4, 3), np.uint8)

    def reset(self, seed=None):
        self.buffer[:] = 0
        return Timestep({"x": self.buffer}, np.float32(0), True, False, False)

    def step(self, action):
        self.buffer += action.sum()
        self.frame += 1
        action[:] = 9
        return Timestep({"x": self.buffer}, np.float32(0), False, False, False)

    def render(self):
        return self.frame

    def close(self):
        pass


def test_environments_of_the_protocol_are_kept_apart_too():
    lanes, actions = LocalVectorEnv([Own()]), np.ones((1, 2), np.float32)
    actions.flags.writeable = False  # as what comes from the device is
    entries = [lanes.step(actions) for _ in range(3)]
    first = lanes.render(0)
    lanes.step(actions)
    assert [float(entry.obs["x"][0, 0]) for entry in entries] == [0, 2, 4] and first.max() == 2
    played = np.ones((3, 2), np.float32)
    lanes.restore(lanes.state(), [played])
    assert (played == 1).all()


def test_reward_and_terminal_functions_are_handed_things_of_their_own():
    def reward(model, data, action, info):
        action += 5
        spoil(info)
        return 1.0

    def terminal(model, data, info):
        assert info["action"][0] == np.float32(0.5)
        spoil(info)
        return False

    pytest.importorskip("mujoco")
    model = (
        "<mujoco><worldbody><body><joint name='j' type='slide'/><geom size='.1'/></body></worldbody>"
        "<actuator><motor joint='j' ctrlrange='-1 1'/></actuator></mujoco>"
    )
    env = MuJoCoEnv(xml_string=model, reward_fn=reward, terminal_fn=terminal)
    env.reset(seed=0)
    action = np.array([0.5], np.float32)
    for _ in range(2):
        *_, info = env.step(action)
        assert info["action"] == np.float32(0.5) == env.data.ctrl[0] and action[0] == np.float32(0.5)
        assert info["qpos"] == env.data.qpos
