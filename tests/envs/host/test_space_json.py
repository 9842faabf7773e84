"""Spaces in a JSON file: what comes back is equal, and strict JSON is enough."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.observations import ObservationMap
from jaxdreamer.envs.host.spaces import restore_space
from jaxdreamer.envs.interpreter.gym_api import describe_space
from tests.envs.host.test_actions import SPACES, agent_action
from tests.envs.host.test_observations import nested_space

MORE = {
    "image": spaces.Box(0, 255, (48, 32, 3), np.uint8),
    "scalar": spaces.Box(-1.5, np.inf, (), np.float64),
    "empty": spaces.Box(-1, 1, (0, 3)),
    "mixed": spaces.Box(np.array([-np.inf, 0.1, -1e30]), np.array([1 / 3, np.inf, 0.2]), dtype=np.float64),
    "half": spaces.Box(np.float16([-0.1]), np.float16([0.1]), dtype=np.float16),
    "largest": spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,), np.float32),
    "long": spaces.Box(np.array([-(2**62) - 1, 0]), np.array([2**62 + 1, 7]), dtype=np.int64),
    "bools": spaces.Box(np.zeros(2, bool), np.ones(2, bool), dtype=np.bool_),
    "binary_grid": spaces.MultiBinary([2, 3]),
    "binary_tuple": spaces.MultiBinary((4,)),
    "small_dtype": spaces.MultiDiscrete([3, 4], dtype=np.int32),
    "nested_observation": nested_space(),
    "order": spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
    "nothing": spaces.Dict({}),
}
ALL = SPACES | MORE


def strict(data):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(json.dumps(data, allow_nan=False), parse_constant=refuse)


@pytest.mark.parametrize("name", ALL)
def test_round_trip(name):
    space = ALL[name]
    restored = restore_space(strict(describe_space(space)))
    assert restored == space and type(restored) is type(space)
    assert describe_space(restored) == describe_space(space)
    space.seed(1)
    restored.seed(1)
    assert restored.contains(space.sample()) and space.contains(restored.sample())
    if isinstance(space, spaces.Box):
        assert restored.dtype == space.dtype and restored.low.dtype == space.low.dtype
        np.testing.assert_array_equal(restored.bounded_below, space.bounded_below)
    if isinstance(space, spaces.Dict):
        assert list(restored.spaces) == list(space.spaces)


@pytest.mark.parametrize("name", SPACES)
def test_actions_are_the_same_in_the_restored_space(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    before = ActionMap(space, action_bound=1.5)
    after = ActionMap(restore_space(strict(describe_space(space))), action_bound=1.5)
    assert before.spec == after.spec
    for _ in range(5):
        action = agent_action(before.spec, rng)
        left, right = (spaces.flatten(space, each.to_env(action)) for each in (before, after))
        np.testing.assert_array_equal(left, right)


def test_equal_bounds_are_written_once():
    described = describe_space(spaces.Box(-np.inf, 255, (84, 84, 3), np.float32))
    assert described == {"kind": "Box", "dtype": "float32", "shape": [84, 84, 3], "low": "-inf", "high": 255.0}


def test_an_unsupported_member_stays_in_its_place_and_can_be_left_out():
    space = spaces.Dict(
        {
            "pos": spaces.Box(-1, 1, (3,)),
            "pair": spaces.Tuple((spaces.Sequence(spaces.Discrete(3)), spaces.Discrete(2))),
        }
    )
    restored = restore_space(strict(describe_space(space)))
    left, right = (ObservationMap(each, (64, 64), ["pair.0"]).spec for each in (space, restored))
    assert left == right and list(right) == ["pair.1", "pos"]
