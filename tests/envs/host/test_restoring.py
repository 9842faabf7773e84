"""Observations and actions there and back: the agent's arrays become what the environment had."""

import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.observations import ObservationMap
from jaxdreamer.envs.host.restoring import ObservationWriter
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.envs.toy import CountingEnv, action_spaces

ACTION = ActionSpec((ActionPart("discrete", 2),))
KINDS = action_spaces() | {
    "unbounded": spaces.Box(-1.0, 1.0, (2,)),
    "integers": spaces.Box(np.array([-3, 0], np.int8), np.array([4, 1], np.int8)),
}


def both(space, image_size, exclude=(), more=None):
    """An observation space's reader and writer."""
    reader = ObservationMap(space, image_size, exclude)
    spec = EnvSpec(reader.spec | (more or {}), ACTION)
    return reader, ObservationWriter(spec, space, reader.leaves, next(iter(reader.spec)))


@pytest.mark.parametrize("kind", KINDS)
def test_actions_come_back(kind):
    space = KINDS[kind]
    actions = ActionMap(space)
    space.seed(0)
    for _ in range(20):
        wanted = space.sample()
        vector = actions.from_env(wanted)
        assert vector.shape == (actions.spec.size,) and vector.dtype == np.float32 and np.abs(vector).max() <= 1
        found = actions.to_env(vector)
        np.testing.assert_allclose(spaces.flatten(space, found), spaces.flatten(space, wanted), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "wrong", "told"),
    [
        ("box", np.zeros(3), r"action: expected finite numbers of shape \(2,\)"),
        ("box", [0.0, np.nan], "action: expected finite numbers"),
        ("discrete", 5, "action: there is no such choice as 5"),
        ("discrete", 0.5, "action: there is no such choice as 0.5"),
        ("dict", {"choice": 1}, r"action.move: expected numbers of shape \(2, 2\)"),
    ],
)
def test_a_wrong_action_is_named(kind, wrong, told):
    with pytest.raises(EnvError, match=told):
        ActionMap(KINDS[kind]).from_env(wrong)


@pytest.mark.parametrize("kind", ["vector", "image", "dict"])
def test_observations_come_back(kind):
    task = CountingEnv(kind, image_shape=(16, 16, 3))
    raw, _ = task.reset(seed=4)
    reader, writer = both(task.observation_space, (16, 16))
    assert writer.space == task.observation_space
    back = writer(reader(raw))
    assert writer.space.contains(back)
    np.testing.assert_allclose(spaces.flatten(writer.space, back), spaces.flatten(writer.space, raw), rtol=1e-6)


def test_pictures_numbers_and_what_is_left_out_come_back():
    space = spaces.Dict(
        {
            "board": spaces.Box(0, 10, (2, 10, 12), np.float32),
            "ram": spaces.Box(-128, 127, (5,), np.int8),
            "dials": spaces.MultiDiscrete([3, 5], start=[1, 0]),
            "secret": spaces.Box(-1, 1, (2,)),
        }
    )
    raw = {
        "board": np.arange(240, dtype=np.float32).reshape(2, 10, 12) % 11,
        "ram": np.array([-128, 127, 7, 0, -3], np.int8),
        "dials": np.array([3, 4]),
        "secret": np.zeros(2, np.float32),
    }
    reader, writer = both(space, (10, 12), ("secret",))
    assert list(writer.space.spaces) == ["board", "dials", "ram"]
    back = writer(reader(raw))
    assert writer.space.contains(back)
    np.testing.assert_allclose(back["board"], raw["board"], atol=0.5 * 10 / 255)
    np.testing.assert_array_equal(back["ram"], raw["ram"])
    np.testing.assert_array_equal(back["dials"], raw["dials"])
    beyond = writer(reader(raw) | {"dials": np.array([4, 4])})
    assert writer.space.contains(beyond)  # of unequal choices the networks know the largest number only


def test_a_picture_of_another_size_has_the_tasks_own():
    reader, writer = both(spaces.Box(0, 255, (3, 40, 20), np.uint8), (16, 16))
    found = writer(reader(np.full((3, 40, 20), 7, np.uint8)))
    assert found.shape == (3, 40, 20) and found.dtype == np.uint8 and (found == 7).all()


def test_a_frame_stands_beside_the_tasks_own():
    frame = {"image": ArraySpec((16, 16, 3), "uint8", "image")}
    picture = np.ones((16, 16, 3), np.uint8)
    for space, raw in (
        (spaces.Box(-1, 1, (2,)), np.ones(2, np.float32)),
        (spaces.Dict({"x": spaces.Box(-1, 1, (2,))}), {"x": np.ones(2, np.float32)}),
    ):
        reader, writer = both(space, (16, 16), more=frame)
        assert set(writer.space.spaces) == {"image", *(raw if isinstance(raw, dict) else ["state"])}
        assert writer.space.contains(writer(reader(raw) | {"image": picture}))


def test_a_task_without_spaces_gets_them_from_its_spec():
    spec = EnvSpec(
        {"state": ArraySpec((3,), "float32", "vector"), "gear": ArraySpec((), "int32", "discrete", 4)}, ACTION
    )
    writer = ObservationWriter(spec, None, [])
    assert writer.space == spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (3,)), "gear": spaces.Discrete(4)})
    assert writer.space.contains(writer({"state": np.zeros(3, np.float32), "gear": np.int32(3)}))
    alone = ObservationWriter(EnvSpec({"state": spec.obs["state"]}, ACTION), None, [])
    assert alone.space == spaces.Box(-np.inf, np.inf, (3,)) and alone.space.contains(alone({"state": np.ones(3, "f")}))
