"""Every action the agent sends is of the space, and ends reach ends."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.spaces import restore_space
from jaxdreamer.envs.interpreter.gym_api import describe_space
from jaxdreamer.types import ActionPart
from tests.envs.toy import action_spaces

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


def agents(space, native):
    """The agent's action for an element of a space with bounds, by hand: what ActionMap must turn into that element."""
    if isinstance(space, spaces.Box):
        low, high = np.float64(space.low), np.float64(space.high)
        width = np.where(high > low, high - low, 1.0)
        return np.where(high > low, 2 * (np.float64(native) - (low + high) / 2) / width, 0.0).ravel()
    if isinstance(space, spaces.Discrete):
        return np.eye(space.n)[native - space.start]
    if isinstance(space, spaces.MultiDiscrete):
        choices = zip(np.ravel(space.nvec), np.ravel(native - space.start))
        return np.concatenate([np.eye(count)[choice] for count, choice in choices])
    if isinstance(space, spaces.MultiBinary):
        return np.eye(2)[np.ravel(native)].ravel()
    names = range(len(space.spaces)) if isinstance(space, spaces.Tuple) else space.spaces
    return np.concatenate([agents(space[name], native[name]) for name in names])


@pytest.mark.parametrize("name", SPACES)
def test_actions_are_of_the_space_and_round_trip(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    actions = ActionMap(space, action_bound=1.5 if name in BOUNDLESS else 0.0)
    for _ in range(300):
        action = agent_action(actions.spec, rng)
        native = actions.to_env(action)
        assert space.contains(native), native
        if name in BOUNDLESS:
            continue
        back = agents(space, native)
        if name in ("integers", "box64"):  # fewer values than the agent has
            np.testing.assert_allclose(actions.to_env(back), native, rtol=1e-12)
        else:
            np.testing.assert_allclose(back, action, atol=1e-5)
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        if name not in BOUNDLESS:  # a draw from a Box without bounds may lie outside the stand-in's
            np.testing.assert_allclose(
                spaces.flatten(space, actions.to_env(agents(space, sample))),
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


FLOAT32, FLOAT64 = (float(np.finfo(dtype).max) for dtype in (np.float32, np.float64))


@pytest.mark.parametrize("bound", [np.inf, FLOAT32, FLOAT64, 1e30, 1e10, 1e6])
def test_missing_and_huge_bounds_are_refused_then_replaced_with_one_note(bound):
    space = spaces.Dict({"arm": spaces.Box(np.array([-bound, -1]), np.array([bound, 1]), dtype=np.float64)})
    with pytest.raises(SpaceError, match=r"'action\.arm'.*1 of the 2 dimensions.*1e\+06 and more.*env\.action_bound"):
        ActionMap(space)
    actions = ActionMap(space, action_bound=3.0)
    assert actions.notes == ["'action.arm': 1 of the 2 dimensions have no bounds and get the half-width 3"]
    for end in (-1.0, 0.5, 1.0):
        np.testing.assert_array_equal(actions.to_env(np.full(2, end))["arm"], [3.0 * end, end])


def test_the_largest_of_a_short_type_counts_as_no_bound_and_the_error_says_so():
    with pytest.raises(SpaceError, match=r"\(-65504 to 65504; 65504 and more counts as none\)"):
        ActionMap(spaces.Box(-65504, 65504, (1,), np.float16))


@pytest.mark.parametrize("huge", [np.inf, FLOAT32, 1e10])
def test_one_sided_bounds_get_the_width_from_the_side_that_is_there(huge):
    actions = ActionMap(spaces.Box(np.float32([0, -huge, -huge]), np.float32([huge, 2, huge])), action_bound=1.0)
    np.testing.assert_array_equal(actions.to_env(-np.ones(3)), [0, 0, -1])
    np.testing.assert_array_equal(actions.to_env(np.ones(3)), [2, 2, 1])


@pytest.mark.parametrize("bound", [1e3, 2e4, 4.9e5])
def test_large_bounds_that_tasks_have_are_kept(bound):
    actions = ActionMap(spaces.Box(-bound, bound, (2,)), action_bound=1.0)
    np.testing.assert_array_equal(actions.to_env(np.ones(2)), np.float32([bound, bound]))
    assert "env.action_bound=1 is not used" in actions.notes[0] and not ActionMap(spaces.Box(-bound, bound, (2,))).notes


def test_a_stand_in_never_leaves_the_space_or_its_type():
    np.testing.assert_array_equal(ActionMap(spaces.Box(-1e10, 1e10, (1,)), 1e11).to_env(np.ones(1)), np.float32([1e10]))
    with pytest.raises(SpaceError, match="action_bound=1e\\+39 is more than float32"):
        ActionMap(spaces.Box(-np.inf, np.inf, (1,)), 1e39)
    with pytest.raises(SpaceError, match="a single integer"):
        ActionMap(spaces.Box(-(2**31), 2**31 - 1, (1,), np.int32), 0.5)


def duck(low, high, dtype=np.float32):
    """A Box that nobody checked."""
    return type("Box", (), {"low": low, "high": high, "shape": np.shape(low), "dtype": np.dtype(dtype)})()


@pytest.mark.parametrize(("low", "high"), [([1.0], [0.0]), ([np.nan], [1.0]), ([np.inf], [np.inf])])
def test_bounds_without_a_number_between_them_are_refused(low, high):
    with pytest.raises(SpaceError):
        ActionMap(duck(np.float32(low), np.float32(high)))


def test_a_dimension_with_equal_bounds_is_constant():
    actions = ActionMap(spaces.Box(np.float32([2, 0]), np.float32([2, 1])))
    assert [actions.to_env(np.array([end, end])).tolist() for end in (-1, 1)] == [[2, 0], [2, 1]]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_integers_at_their_types_limits(dtype):
    limits, few = np.iinfo(dtype), np.array([-1, -0.6, 0.6, 1])
    for low, high in ((limits.min, limits.min + 5), (limits.max - 5, limits.max)):
        actions = ActionMap(spaces.Box(low, high, (4,), dtype))
        found = actions.to_env(few)
        assert found.dtype == dtype and [int(value) for value in found] == [low, low + 1, low + 4, high]
    whole = spaces.Box(limits.min, limits.max, (2,), dtype)
    if limits.max < 1e6:  # a byte's range is a range
        assert [int(value) for value in ActionMap(whole).to_env(np.array([-1, 1]))] == [limits.min, limits.max]
        return
    with pytest.raises(SpaceError, match=r"2 of the 2 dimensions.*env\.action_bound"):
        ActionMap(whole)
    low = max(-3, limits.min)
    actions = ActionMap(whole, action_bound=3)
    assert [int(value) for value in actions.to_env(np.array([-1, 1]))] == [low, low + 6]
    every = ActionMap(whole, action_bound=2.0**70)  # more than there is
    assert [int(value) for value in every.to_env(np.array([-1, 1]))] == [limits.min, limits.max]


def test_bools_are_rounded():
    actions = ActionMap(spaces.Box(0, 1, (4,), np.bool_))
    assert actions.to_env(np.array([-1, -0.2, 0.2, 1])).tolist() == [False, False, True, True]


def test_what_has_no_numbers_is_no_part():
    space = spaces.Dict(
        {"none": spaces.Box(-1, 1, (0, 3)), "many": spaces.MultiDiscrete([]), "one": spaces.Discrete(2)}
    )
    actions = ActionMap(space)
    assert actions.spec.parts == (ActionPart("discrete", 2),)
    native = actions.to_env(np.array([0, 1]))
    assert space.contains(native) and native["one"] == 1


@pytest.mark.parametrize("name", SPACES)
def test_every_element_is_fresh_and_the_space_may_change_later(name):
    space = restore_space(describe_space(SPACES[name]))
    actions = ActionMap(space, action_bound=1.5)
    vector = agent_action(actions.spec, np.random.default_rng(1))
    kept, first = vector.copy(), actions.to_env(vector)
    before = spaces.flatten(space, first).copy()
    for leaf in leaves(first):
        leaf[...] = 0
    for leaf in leaves(space):
        for bound in (leaf.low, leaf.high) if isinstance(leaf, spaces.Box) else ():
            bound[...] = 7
        for numbers in (leaf.nvec, leaf.start) if isinstance(leaf, spaces.MultiDiscrete) else ():
            numbers[...] = 1
    np.testing.assert_array_equal(vector, kept)
    np.testing.assert_array_equal(spaces.flatten(SPACES[name], actions.to_env(vector)), before)


def leaves(tree):
    """The arrays in an action, or the spaces in a space."""
    inner = getattr(tree, "spaces", tree)
    inner = list(inner.values()) if isinstance(inner, dict) else inner
    if isinstance(inner, list | tuple):
        return [leaf for item in inner for leaf in leaves(item)]
    return [inner] if isinstance(inner, np.ndarray | spaces.Space) else []


def test_spaces_of_old_gym_are_told_by_name_or_by_what_they_have():
    old_box = SimpleNamespace(low=np.zeros(2), high=np.ones(2))  # before they had shape and type
    named = namedtuple("Discrete", "n")(3)
    fakes = {
        "box": (old_box, spaces.Box(0, 1, (2,))),
        "choice": (named, spaces.Discrete(3)),
        "choices": (SimpleNamespace(nvec=[2, 3]), spaces.MultiDiscrete([2, 3])),
        "switches": (SimpleNamespace(n=4, shape=(4,)), spaces.MultiBinary(4)),
        "dict": (SimpleNamespace(spaces=OrderedDict(b=named, a=old_box)), OrderedDict(b=named, a=old_box)),
        "tuple": (SimpleNamespace(spaces=[named, old_box]), (named, old_box)),
        "named tuple": (namedtuple("Both", "one two")(named, old_box), {"one": named, "two": old_box}),
    }
    for name, (fake, like) in fakes.items():
        found, expected = ActionMap(fake), ActionMap(like)
        assert found.spec == expected.spec, name
        vector = agent_action(found.spec, np.random.default_rng(0))
        np.testing.assert_equal(found.to_env(vector), expected.to_env(vector))
    with pytest.raises(SpaceError, match="Box"):
        ActionMap(namedtuple("Box", "low")(0))
    with pytest.raises(SpaceError, match=r"OneOf.*supported are"):
        ActionMap(spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]))


def test_bad_shapes_and_spaces_are_refused():
    actions = ActionMap(SPACES["box"])
    with pytest.raises(EnvError, match=r"shape \(2,\), found \(3,\)"):
        actions.to_env(np.zeros(3))
    with pytest.raises(SpaceError, match=r"'action\.word'.*Text"):
        ActionMap(spaces.Dict({"word": spaces.Text(3)}))
    with pytest.raises(SpaceError, match="no dimensions"):
        ActionMap(spaces.Box(0, 1, (0,)))
