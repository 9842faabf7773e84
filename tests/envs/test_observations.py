"""Observations get their keys, and come out as copies in the agent's units."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.observations import ObservationMap


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
    space = spaces.Dict({"task": spaces.Dict({"name": spaces.Text(8)}), "pos": spaces.Box(-1, 1, (3,))})
    with pytest.raises(ConfigError, match=r"'task\.name'.*Text.*supported are Box.*env\.exclude=task\.name"):
        ObservationMap(space, (64, 64))
    assert list(ObservationMap(space, (64, 64), ["task.name"]).spec) == ["pos"]
    with pytest.raises(SpaceError, match=r"'state'.*Sequence"):
        ObservationMap(spaces.Sequence(spaces.Discrete(2)), (64, 64))
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
    assert table(spaces.Box(-1, 1, (64, 64, 3), np.float32)) == {"state": ("vector", (64, 64, 3))}
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


def test_float_images_are_rounded_and_kept_in_range():
    observations = ObservationMap(spaces.Box(0, 1, (8, 8, 1), np.float32), (8, 8))
    image = np.zeros((8, 8, 1), np.float32)
    image[0, :5, 0] = [0.999, 0.001, 1.5, -0.5, np.nan]
    assert observations(image)["image"][0, :5, 0].tolist() == [255, 0, 255, 0, 0]


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
