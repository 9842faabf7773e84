"""Observations get their keys, and come out as copies in the agent's units."""

import json
from collections import namedtuple
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.base import EnvError, NotFinite, SpaceError
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.envs.host.observations import ObservationMap
from jaxdreamer.envs.host.spaces import restore_space, understood
from jaxdreamer.envs.host.vector import stack
from jaxdreamer.envs.interpreter.gym_api import describe_space
from jaxdreamer.train.host.collect import finite_lanes
from tests.envs.toy import CountingEnv


def nested_space():
    return spaces.Dict(
        {
            "image": spaces.Box(0, 255, (48, 32, 3), np.uint8),
            "pos": spaces.Box(-np.inf, np.inf, (3,)),
            "mode": spaces.Discrete(4, start=2),
            "nested": spaces.Dict({"imu": spaces.Box(-1, 1, (6,), np.float64)}),
            "pair": spaces.Tuple((spaces.MultiBinary(5), spaces.MultiDiscrete([2, 7]))),
        }
    )


def test_keys_of_a_nested_space():
    space = nested_space()
    space.seed(0)
    observations = ObservationMap(space, (64, 64))
    table = {key: (spec.kind, spec.shape, spec.dtype, spec.classes) for key, spec in observations.spec.items()}
    assert table == {
        "image": ("image", (64, 64, 3), "uint8", 0),
        "mode": ("discrete", (), "int32", 4),
        "nested.imu": ("vector", (6,), "float32", 0),
        "pair.0": ("discrete", (5,), "int32", 2),
        "pair.1": ("discrete", (2,), "int32", 7),
        "pos": ("vector", (3,), "float32", 0),
    }
    sample = space.sample()
    read = observations(sample)
    for key, spec in observations.spec.items():
        assert (read[key].shape, str(read[key].dtype)) == (spec.shape, spec.dtype), key
    assert read["mode"] == sample["mode"] - 2
    np.testing.assert_array_equal(read["nested.imu"], sample["nested"]["imu"].astype(np.float32))
    np.testing.assert_array_equal(read["pair.1"], sample["pair"][1])


def test_exclusion_by_globs():
    def keys(*exclude):
        return set(ObservationMap(nested_space(), (64, 64), exclude).spec)

    assert keys("image") == {"pos", "mode", "nested.imu", "pair.0", "pair.1"}
    assert keys("nested", "p*") == {"image", "mode"}
    assert keys("pair.?") == {"image", "pos", "mode", "nested.imu"}
    with pytest.raises(SpaceError, match=r"no observation is left.*image"):
        keys("*")


def test_unsupported_spaces_are_named():
    names = spaces.Sequence(spaces.Discrete(2))
    space = spaces.Dict({"task": spaces.Dict({"name": names}), "pos": spaces.Box(-1, 1, (3,))})
    with pytest.raises(ConfigError, match=r"'task\.name'.*Sequence.*supported are Box.*env\.exclude=task\.name"):
        ObservationMap(space, (64, 64))
    assert list(ObservationMap(space, (64, 64), ["task.name"]).spec) == ["pos"]
    with pytest.raises(SpaceError, match=r"'state'.*Sequence"):
        ObservationMap(spaces.Sequence(spaces.Discrete(2)), (64, 64))
    with pytest.raises(
        SpaceError, match=r"'state' is one of 1,099,511,627,776 choices.*65,536 are the most: make .* a Box"
    ):
        ObservationMap(spaces.Discrete(2**40), (64, 64))
    with pytest.raises(SpaceError, match=r"'a\.b'"):
        ObservationMap(spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}), (64, 64))


def test_bare_spaces_get_a_key():
    def table(space):
        return {key: (spec.kind, spec.shape) for key, spec in ObservationMap(space, (16, 24)).spec.items()}

    assert table(spaces.Box(-1, 1, (3,))) == {"state": ("vector", (3,))}
    assert table(spaces.Box(-1, 1, ())) == {"state": ("vector", ())}
    assert table(spaces.Discrete(3)) == {"state": ("discrete", ())}
    assert table(spaces.Box(0, 255, (84, 84), np.uint8)) == {"image": ("image", (16, 24, 1))}
    assert table(spaces.Box(0, 255, (4, 84, 84), np.uint8)) == {"image": ("image", (16, 24, 4))}
    assert table(spaces.Box(0, 1, (3, 3, 3), np.float32)) == {"state": ("vector", (3, 3, 3))}
    assert table(spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,))))) == {
        "0": ("discrete", ()),
        "1": ("vector", (2,)),
    }


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(64, 64), (32, 48), (96, 128)])
def test_one_frame_in_every_layout_is_one_image(channels, size):
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, channels), np.uint8)
    shapes = {
        "hwc": (frame, 255, np.uint8),
        "chw": (frame.transpose(2, 0, 1), 255, np.uint8),
        "float": ((frame / 255).astype(np.float32), 1, np.float32),
        "float_chw": ((frame / 255).astype(np.float64).transpose(2, 0, 1), 1, np.float64),
        "float_255": (frame.astype(np.float32), 255, np.float32),
    }
    images = {}
    for name, (value, high, dtype) in shapes.items():
        observations = ObservationMap(spaces.Box(0, high, value.shape, dtype), size)
        assert observations.spec["image"].shape == (*size, channels)
        images[name] = observations(value)["image"]
    for name, image in images.items():
        assert image.dtype == np.uint8 and image.shape == (*size, channels) and image.flags.c_contiguous
        np.testing.assert_array_equal(image, images["hwc"], err_msg=name)
    if size == (64, 64):
        np.testing.assert_array_equal(images["hwc"], frame)
    if size == (32, 48):
        halves = ObservationMap(spaces.Box(0, 255, frame.shape, np.uint8), (32, 32))(frame)["image"]
        area = frame.reshape(32, 2, 32, 2, channels).mean(axis=(1, 3))
        assert np.abs(halves - area).max() <= 1.0  # area averaging: four channels are not mixed as opacity


def test_observations_are_copies_and_checked():
    observations = ObservationMap(spaces.Dict({"pos": spaces.Box(-1, 1, (3,)), "n": spaces.Discrete(3)}), (64, 64))
    position = np.zeros(3, np.float32)
    read = observations({"pos": position, "n": 2})
    position += 1
    np.testing.assert_array_equal(read["pos"], 0)
    image = np.zeros((64, 64, 3), np.uint8)
    kept = ObservationMap(spaces.Box(0, 255, (64, 64, 3), np.uint8), (64, 64))(image)["image"]
    image += 1
    assert kept.max() == 0
    with pytest.raises(EnvError, match=r"'pos'.*\(3,\).*\(2,\)"):
        observations({"pos": np.zeros(2), "n": 0})
    with pytest.raises(EnvError, match="'n'"):
        observations({"pos": np.zeros(3)})
    with pytest.raises(EnvError, match=r"'n' must lie in \[0, 2\], found 3"):
        observations({"pos": np.zeros(3), "n": 3})


def test_float_images_are_rounded_and_kept_in_range(caplog):
    observations = ObservationMap(spaces.Box(0, 1, (8, 8, 1), np.float32), (8, 8))
    image = np.zeros((8, 8, 1), np.float32)
    image[0, :4, 0] = [0.999, 0.001, 1.0009, -0.0009]
    assert observations(image)["image"][0, :4, 0].tolist() == [255, 0, 255, 0] and not caplog.records
    image[0, :2, 0] = [1.5, -0.5]
    for _ in range(2):
        assert observations(image)["image"][0, :2, 0].tolist() == [255, 0]
    (record,) = caplog.records  # once
    assert "'image' holds -0.5 to 1.5, but its space says 0 to 1: the rest is clipped" in record.getMessage()


PICTURES = {  # shape, dtype, low, high -> channels
    "gray": ((84, 84), np.uint8, 0, 255, 1),
    "gray floats": ((84, 84), np.float32, 0, 1, 1),
    "board": ((8, 8), np.uint8, 0, 10, 1),
    "board of signs": ((8, 8), np.int8, -6, 6, 1),
    "grid of integers": ((10, 12), np.int64, 0, 3, 1),
    "two": ((84, 84, 2), np.uint8, 0, 255, 2),
    "stack of three": ((84, 84, 9), np.uint8, 0, 255, 9),
    "stack of four": ((84, 84, 12), np.uint8, 0, 255, 12),
    "gray stack": ((4, 84, 84), np.uint8, 0, 255, 4),
    "frames of colour": ((4, 64, 48, 3), np.uint8, 0, 255, 12),
    "frames, channels first": ((4, 3, 64, 48), np.uint8, 0, 255, 12),
    "floats": ((64, 64, 3), np.float64, -1, 1, 3),
    "integers": ((64, 64, 3), np.int32, 0, 255, 3),
    "planes": ((10, 10, 6), bool, 0, 1, 6),
}
VECTORS = {
    "few bytes": ((4,), np.uint8, 0, 255),
    "memory": ((128,), np.uint8, 0, 255),
    "small grid": ((7, 7, 3), np.uint8, 0, 255),
    "one-hot board": ((8, 8, 12), np.int8, 0, 1),
    "many planes": ((8, 8, 111), bool, 0, 1),
    "no bounds": ((64, 64, 3), np.float32, -np.inf, np.inf),
    "no bounds in integers": ((64, 64, 3), np.int64, np.iinfo(np.int64).min, np.iinfo(np.int64).max),
    "bounds for form's sake": ((64, 64, 3), np.float32, -1e10, 1e10),
    "stacked vectors": ((8, 17), np.float32, -1, 1),
}


@pytest.mark.parametrize("name", [*PICTURES, *VECTORS])
def test_what_is_a_picture(name):
    shape, dtype, low, high, *channels = (PICTURES | VECTORS)[name]
    (spec,) = ObservationMap(spaces.Box(low, high, shape, dtype), (16, 24)).spec.values()
    if channels:
        assert (spec.kind, spec.shape) == ("image", (16, 24, *channels))
    else:
        assert (spec.kind, spec.shape) == ("vector", shape)


@pytest.mark.parametrize("name", PICTURES)
def test_bounds_become_0_and_255(name):
    shape, dtype, low, high, channels = PICTURES[name]
    size = {"frames of colour": (64, 48), "frames, channels first": (64, 48)}.get(name, shape[:2])
    size = (84, 84) if name == "gray stack" else size
    observations = ObservationMap(spaces.Box(low, high, shape, dtype), size)
    value = np.full(shape, low, dtype)
    assert observations(value)["image"].max() == 0
    value[...] = high
    assert observations(value)["image"].min() == 255
    rng = np.random.default_rng(0)
    drawn = rng.integers(low, high + 1, shape) if np.dtype(dtype).kind != "f" else rng.uniform(low, high, shape)
    value[...] = drawn
    image = observations(value)["image"]
    assert image.shape == (*size, channels) and image.dtype == np.uint8
    flat = {3: lambda x: x if shape[-1] == channels else np.moveaxis(x, 0, -1), 2: lambda x: x[..., None]}.get(
        len(shape)
    )
    if flat is not None:
        expected = 255 * (value.astype(np.float64) - low) / (high - low)
        assert np.abs(image - flat(expected)).max() <= 0.5 + 1e-4


def test_each_number_of_a_picture_has_bounds_of_its_own():
    high = np.broadcast_to(np.array([10, 5, 1, 0]), (8, 9, 4))
    for axes in ((0, 1, 2), (2, 0, 1)):
        bounds = high.transpose(axes).astype(np.uint8)
        space = spaces.Box(0 * bounds, bounds, dtype=np.uint8)
        value = np.broadcast_to(np.array([4, 5, 0, 0], np.uint8), high.shape).transpose(axes)
        image = ObservationMap(space, (8, 9))(value)["image"]
        np.testing.assert_array_equal(image, np.broadcast_to(np.array([102, 255, 0, 0]), high.shape))


def test_stacked_frames_are_channels_side_by_side_the_newest_last():
    class Frames:
        """As old gym's LazyFrames: an array only when it is asked for."""

        def __init__(self, frames):
            self.frames = frames

        def __array__(self, dtype=None):
            return np.stack(self.frames).astype(dtype or np.uint8)

    frames = [np.random.default_rng(i).integers(0, 256, (16, 24, 3), np.uint8) for i in range(4)]
    observations = ObservationMap(spaces.Box(0, 255, (4, 16, 24, 3), np.uint8), (16, 24))
    for given in (np.stack(frames), Frames(frames)):
        np.testing.assert_array_equal(observations(given)["image"], np.concatenate(frames, axis=-1))
    first = ObservationMap(spaces.Box(0, 255, (4, 3, 16, 24), np.uint8), (16, 24))
    image = first(np.stack([frame.transpose(2, 0, 1) for frame in frames]))["image"]
    np.testing.assert_array_equal(image[..., -3:], frames[-1])
    vectors = ObservationMap(spaces.Box(-np.inf, np.inf, (2, 3)), (16, 24))
    np.testing.assert_array_equal(vectors(Frames([np.arange(3), np.ones(3)]))["state"], [[0, 1, 2], [1, 1, 1]])


def test_gymnasiums_own_frame_stack():
    import gymnasium

    env = gymnasium.wrappers.FrameStackObservation(CountingEnv("image", image_shape=(12, 16, 3)), 3)
    agent_env = wrap(env, EnvConfig(image_size=(12, 16)))
    entries = [agent_env.reset(0)] + [agent_env.step(np.eye(5)[0]) for _ in range(3)]
    assert agent_env.spec.obs["image"].shape == (12, 16, 9)
    for t in range(1, 4):
        np.testing.assert_array_equal(entries[t].obs["image"][..., :6], entries[t - 1].obs["image"][..., 3:])


def test_floats_are_not_cut_to_whole_numbers():
    observations = ObservationMap(spaces.Dict({"eye": spaces.Box(0, 255, (8, 8, 3), np.uint8)}), (8, 8))
    with pytest.raises(
        EnvError, match=r"'eye': its space has whole numbers \(uint8, 0 to 255\).*float64.* such as 0\.5"
    ):
        observations({"eye": np.full((8, 8, 3), 0.5)})
    for dtype in (np.float32, np.int64, np.uint8):  # whole numbers within the bounds are what was asked for
        assert observations({"eye": np.full((8, 8, 3), 7, dtype)})["eye"].max() == 7
    choice = ObservationMap(spaces.Discrete(3), (8, 8))
    assert choice(np.float64(2.0))["state"] == 2
    with pytest.raises(EnvError, match=r"'state' must be in whole numbers, found 1\.5"):
        choice(1.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pictures_and_choices_cannot_hold_what_is_not_finite(value):
    image = np.zeros((8, 8, 3), np.float32)
    image[3, 4, 1] = value
    for dtype in (np.float32, np.uint8):
        with pytest.raises(NotFinite, match="'eye' holds numbers that are not finite"):
            ObservationMap(spaces.Dict({"eye": spaces.Box(0, 1, (8, 8, 3), dtype)}), (8, 8))({"eye": image})
    with pytest.raises(NotFinite, match="'n' holds"):
        ObservationMap(spaces.Dict({"n": spaces.Discrete(3)}), (8, 8))({"n": value})


def test_an_entry_that_cannot_be_handed_on_says_so_by_its_reward(caplog):
    """One key of several; the log names it once, and both reset and step are marked."""

    class Blind(CountingEnv):
        def __init__(self):
            super().__init__("dict")
            self.observation_space["image"] = spaces.Box(0.0, 1.0, (16, 16, 3), np.float32)

        def _observe(self):
            image = np.full((16, 16, 3), np.nan if self.resets == 1 or self.time == 2 else 0.5, np.float32)
            return {**super()._observe(), "image": image}

    env = wrap(Blind(), EnvConfig(image_size=(16, 16)))
    first, again = env.reset(0), env.reset(1)
    assert np.isnan(first.reward) and first.is_first and not first.is_last
    assert again.reward == 0 and again.obs["image"].max() == 128
    good, bad = (env.step(np.eye(5)[0]) for _ in range(2))
    assert good.reward == 1 and np.isnan(bad.reward) and not finite_lanes(stack([bad]))[0]
    for key, spec in env.spec.obs.items():
        assert (bad.obs[key].shape, str(bad.obs[key].dtype)) == (spec.shape, spec.dtype) and not bad.obs[key].any()
    (record,) = caplog.records
    assert "observation 'image' holds numbers that are not finite" in record.getMessage()


def test_whole_numbers_of_a_vector_are_scaled_by_their_bounds():
    def read(low, high, value, dtype=np.uint8):
        value = np.asarray(value)
        low, high = (np.broadcast_to(bound, value.shape).astype(dtype) for bound in (low, high))
        space = spaces.Box(low, high, dtype=dtype)
        return ObservationMap(space, (8, 8))(value)["state"].tolist()

    assert read(0, 255, [0, 51, 255]) == [0, float(np.float32(0.2)), 1]
    assert read(0, 1, [0, 1], np.int8) == [0, 1] and read(-1, 1, [-1, 0, 1], np.int8) == [-1, 0, 1]
    assert read(-10, 30, [-10, 10, 30], np.int32) == [-1, 0, 1]
    assert read(1000, 1010, [1000, 1005, 1010], np.int32) == [0, 0.5, 1]
    assert read([0, 0, 4], [10, 10**6, 4], [5, 5, 4], np.int32) == [
        0.5,
        5,
        4,
    ]  # of those without bounds nothing is known
    limits = np.iinfo(np.int64)
    assert read(limits.min, limits.max, [3, -4], np.int64) == [3, -4]
    assert ObservationMap(spaces.Box(0, 200, (2,)), (8, 8))(np.array([50.0, 0.5]))["state"].tolist() == [50, 0.5]


def test_jaxs_short_floats_are_numbers():
    observations = ObservationMap(spaces.Box(-1, 1, (2,)), (8, 8))
    assert observations(jnp.array([0.5, -1], jnp.bfloat16))["state"].tolist() == [0.5, -1]
    with pytest.raises(EnvError, match=r"found ndarray of complex64 and shape \(2,\)"):
        observations(np.zeros(2, np.complex64))


@pytest.mark.parametrize("value", [None, [0.0, None, 1.0], ["0", "1", "2"], [1j, 0, 0]])
def test_what_is_no_number_is_refused(value):
    observations = ObservationMap(spaces.Dict({"pos": spaces.Box(-1, 1, (3,))}), (64, 64))
    with pytest.raises(EnvError, match=r"'pos': expected numbers of shape \(3,\), found"):
        observations({"pos": value})


def test_non_finite_observations_are_handed_on():
    observations = ObservationMap(spaces.Box(-np.inf, np.inf, (3,), np.float64), (64, 64))
    read = observations(np.array([np.nan, 1e300, 1.0]))["state"]
    np.testing.assert_array_equal(read, [np.nan, np.inf, 1.0])


def test_what_has_no_numbers_is_left_out_with_a_note():
    space = spaces.Dict({"none": spaces.Box(-1, 1, (0,)), "deep": spaces.Tuple((spaces.Box(0, 1, (2, 0)),)),
                         "pos": spaces.Box(-1, 1, (3,)), "many": spaces.MultiDiscrete([])})  # fmt: skip
    observations = ObservationMap(space, (64, 64))
    assert list(observations.spec) == ["pos"] == list(observations(space.sample()))
    assert len(observations.notes) == 3 and "'none' is left out: Box" in " ".join(observations.notes)
    with pytest.raises(SpaceError, match=r"no observation is left.*'state' is left out.*no numbers"):
        ObservationMap(spaces.Box(-1, 1, (0,)), (64, 64))


def test_spaces_of_old_gym_and_named_tuples_are_read():
    Old = namedtuple("Old", "pos mode")
    space = Old(SimpleNamespace(low=np.zeros(2), high=np.ones(2)), namedtuple("Discrete", "n")(4))
    read = ObservationMap(space, (64, 64))(Old(np.array([0.5, 1]), 3))
    assert read["pos"].tolist() == [0.5, 1] and read["mode"] == 3
    pair = SimpleNamespace(spaces=(space.pos, space.mode))
    assert list(ObservationMap(pair, (64, 64))((np.zeros(2), 1))) == ["0", "1"]
    with pytest.raises(EnvError, match="'mode'"):
        ObservationMap(space, (64, 64))(namedtuple("Other", "pos")(np.zeros(2)))


def test_named_tuples_are_spaces_where_they_hold_numbers_and_dictionaries_where_they_hold_spaces():
    """As Crafter declares its own where old gym is not installed."""
    box = namedtuple("BoxSpace", "low high shape dtype")(0, 255, (16, 16, 3), np.uint8)
    some = namedtuple("DictSpace", "spaces")({"picture": box, "choice": namedtuple("DiscreteSpace", "n")(17)})
    assert understood(some) == spaces.Dict(
        {"picture": spaces.Box(0, 255, (16, 16, 3), np.uint8), "choice": spaces.Discrete(17)}
    )
    members = namedtuple("Members", "low high n")(spaces.Discrete(2), box, spaces.Discrete(3))
    assert list(understood(members)) == ["low", "high", "n"]


class Mission(spaces.Space):
    """Text that is no gymnasium.spaces.Text, as MiniGrid's."""

    def __init__(self):
        super().__init__(dtype=str)


@pytest.mark.parametrize("text", [spaces.Text(8), Mission()])
def test_text_is_left_out_with_a_line_and_alone_it_is_an_error(text):
    space = spaces.Dict({"direction": spaces.Discrete(4), "task": spaces.Dict({"mission": text})})
    restored = restore_space(json.loads(json.dumps(describe_space(space))))  # as a loaded agent knows it
    for each in (space, restored):
        seen = ObservationMap(each, (64, 64))
        assert seen.notes == ["observation 'task.mission' is left out: it is text, which the networks do not read"]
        assert list(seen.spec) == ["direction"]
        read = seen({"direction": 2, "task": {"mission": "go to the red door"}})
        assert read.keys() == {"direction"} and read["direction"] == 2
    with pytest.raises(
        SpaceError, match=r"^no observation is left of [^;]*; observation 'state' is left out: it is text"
    ):
        ObservationMap(text, (64, 64))
    with pytest.raises(
        SpaceError, match=r"env\.exclude \['direction'\] leaves out direction; .*'task.mission' .* text"
    ):
        ObservationMap(space, (64, 64), ["direction"])
