"""Every action the agent sends is of the space, and ends reach ends."""

import logging

import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.envs.actions import ActionMap
from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.toy import action_spaces
from jaxdreamer.types import ActionPart

SPACES = {
    **action_spaces(),
    # In the first two low + (high - low) is not high; the last two leave no room for a rounding outwards.
    "box64": spaces.Box(
        np.array([-1.38, 0.26, 0.1, 0.3]), np.array([0.82, 2.61, 0.1, np.nextafter(0.3, 1)]), dtype=np.float64
    ),
    "tenth": spaces.Box(-0.1, 0.3, (2, 3), np.float32),
    "integers": spaces.Box(-3, 5, (2,), np.int32),
    "half_bounded": spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 2]), dtype=np.float64),
    "grid": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [-2, 5]]),
    "nested": spaces.Dict(
        {"a": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 4, (1,)))), "b": spaces.MultiBinary(2)}
    ),
}
BOUNDLESS = ("unbounded", "half_bounded")


def agent_action(spec, rng):
    """A random flat action: uniform in [-1, 1], one-hot where discrete."""
    blocks = [
        rng.uniform(-1, 1, part.size) if part.kind == "continuous" else np.eye(part.size)[rng.integers(part.size)]
        for part in spec.parts
    ]
    return np.concatenate(blocks).astype(np.float32)


@pytest.mark.parametrize("name", SPACES)
def test_actions_are_of_the_space_and_round_trip(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    actions = ActionMap(space, action_bound=1.5 if name in BOUNDLESS else 0.0)
    for _ in range(300):
        action = agent_action(actions.spec, rng)
        native = actions.to_env(action)
        assert space.contains(native), native
        back = actions.from_env(native)
        assert back.dtype == np.float32 and back.shape == action.shape
        if name in ("integers", "box64"):  # fewer values than the agent has
            np.testing.assert_array_equal(actions.to_env(back), native)
        else:
            np.testing.assert_allclose(back, action, atol=1e-5)
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        if name not in BOUNDLESS:  # a draw from a Box without bounds may lie outside the stand-in's
            np.testing.assert_allclose(
                spaces.flatten(space, actions.to_env(actions.from_env(sample))),
                spaces.flatten(space, sample),
                rtol=1e-4,
            )


@pytest.mark.parametrize("name", [name for name, space in SPACES.items() if isinstance(space, spaces.Box)])
def test_ends_are_reached_exactly(name):
    space = SPACES[name]
    actions = ActionMap(space, action_bound=1.5 if name in BOUNDLESS else 0.0)
    low, high = space.low, space.high
    if name == "unbounded":
        low, high = np.full(2, -1.5), np.full(2, 1.5)
    if name == "half_bounded":
        low, high = np.array([0.0, -1.0]), np.array([3.0, 2.0])
    np.testing.assert_array_equal(actions.to_env(-np.ones(actions.spec.size)), low)
    np.testing.assert_array_equal(actions.to_env(np.ones(actions.spec.size)), high)
    np.testing.assert_array_equal(actions.to_env(np.full(actions.spec.size, 9.0)), high)
    middle = actions.to_env(np.zeros(actions.spec.size))
    np.testing.assert_allclose(middle, (np.float64(low) + np.float64(high)) / 2, rtol=1e-6, atol=1e-7)
    assert middle.dtype == space.dtype and middle.shape == space.shape


@pytest.mark.parametrize("name", ["discrete", "offset", "multi_discrete", "multi_binary", "grid"])
def test_every_choice_is_reached(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    actions = ActionMap(space)
    assert actions.spec.is_discrete
    assert actions.to_env(agent_action(actions.spec, rng)).dtype == space.dtype
    seen = {tuple(np.ravel(actions.to_env(agent_action(actions.spec, rng)))) for _ in range(1000)}
    assert len(seen) == np.prod([part.size for part in actions.spec.parts])


def test_parts_are_in_the_documented_order():
    def discrete(n):
        return ActionPart("discrete", n)

    def parts(name):
        return ActionMap(SPACES[name]).spec.parts

    assert parts("offset") == (discrete(3),)
    assert parts("multi_discrete") == (discrete(3), discrete(2))
    assert parts("multi_binary") == (discrete(2),) * 4
    assert parts("tenth") == (ActionPart("continuous", 6),)
    assert parts("dict") == (discrete(3), ActionPart("continuous", 4))
    assert parts("nested") == (discrete(2), ActionPart("continuous", 1), discrete(2), discrete(2))
    assert ActionMap(SPACES["offset"]).to_env(np.array([1, 0, 0])) == -1
    np.testing.assert_array_equal(ActionMap(SPACES["multi_discrete"]).to_env(np.array([0, 0, 1, 1, 0])), [2, 0])
    box = ActionMap(spaces.Box(0, 1, (2, 2))).to_env(np.array([-1, 1, 0, -1]))
    np.testing.assert_array_equal(box, [[0, 1], [0.5, 0]])


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max, np.finfo(np.float64).max])
def test_missing_bounds_are_refused_then_replaced_with_one_warning(bound, caplog):
    space = spaces.Dict({"arm": spaces.Box(np.array([-bound, -1]), np.array([bound, 1]), dtype=np.float64)})
    with pytest.raises(SpaceError, match=r"'action\.arm'.*1 of its 2 dimensions.*env\.action_bound"):
        ActionMap(space)
    with caplog.at_level(logging.WARNING):
        actions = ActionMap(space, action_bound=3.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for _ in range(3):
        np.testing.assert_array_equal(actions.to_env(np.ones(2))["arm"], [3.0, 1.0])
    assert len(caplog.records) == 1


def test_bad_shapes_and_spaces_are_refused():
    actions = ActionMap(SPACES["box"])
    with pytest.raises(EnvError, match=r"shape \(2,\), found \(3,\)"):
        actions.to_env(np.zeros(3))
    with pytest.raises(SpaceError, match=r"'action\.word'.*Text"):
        ActionMap(spaces.Dict({"word": spaces.Text(3)}))
    with pytest.raises(SpaceError, match="no dimensions"):
        ActionMap(spaces.Box(0, 1, (0,)))
