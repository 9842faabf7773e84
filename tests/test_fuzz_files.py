"""Files of a run garbled at random, by fixed seeds: each is read, or refused in a sentence that names it."""

import copy
import json
import random
import warnings

import pytest
from gymnasium import spaces

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.config import Config
from jaxdreamer.envs.host.spaces import read_spaces, read_spec
from jaxdreamer.envs.interpreter.gym_api import describe_space
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.record.bands import band
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.plot import draw, read_curves, spark
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.svg import chart
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec

ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    -0.0,
    2**31,
    2**63,
    10**30,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
]
ODD += [
    "\0",
    "\ud800",
    "١٢",
    "../../x",
    "inf",
    "evil:run",
    "<mujoco>",
    "x" * 10_000,
    [],
    [[]],
    [1, [2]],
    [None],
    {},
    {"a": {}},
]
ODD += [
    [0] * 5000,
    {"kind": "Box"},
    {"kind": "Dict", "spaces": [["a", 1]]},
    "float64",
    "O",
    "object",
    "V8",
    "<U99999999",
]
BYTES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\n",
    b"9" * 5000,
    b"-",
    b"e999",
    b"NaN",
]
SPACE = spaces.Dict(
    image=spaces.Box(0, 255, (16, 16, 3), "uint8"),
    state=spaces.Box(-1.0, float("inf"), (3,)),
    kind=spaces.Discrete(4, start=1),
    inner=spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary([2, 2])]),
)
SPEC = EnvSpec(
    {"image": ArraySpec((16, 16, 3), "uint8", "image"), "state": ArraySpec((3,), "float32", "vector")},
    ActionSpec((ActionPart("continuous", 2), ActionPart("discrete", 3))),
)
STORED_SPEC = {
    **SPEC.to_dict(),
    "spaces": {"observation": describe_space(SPACE), "action": describe_space(SPACE["state"])},
}
STORED_CONFIG = configs.to_dict(configs.preset("classic,tiny"))


def places(data):
    """Every container in nested values, with the keys it has."""
    found = [data]
    for value in data.values() if isinstance(data, dict) else data:
        if isinstance(value, dict | list) and value:
            found += places(value)
    return found


def values_garbled(rng, data):
    """A copy of which an entry or two is another value, gone, there under another name, or moved."""
    data = copy.deepcopy(data)
    if rng.random() < 0.05:
        return copy.deepcopy(rng.choice(ODD))
    for _ in range(rng.choice([1, 1, 2])):
        place = rng.choice(places(data))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key, what = rng.choice(keys), rng.random()
        if what < 0.7:
            place[key] = copy.deepcopy(rng.choice(ODD))
        elif what < 0.8:
            del place[key]
        elif what < 0.9 and isinstance(place, dict):
            place[rng.choice(["", "x", "env.id", "preset", "٣", key * 2])] = copy.deepcopy(place[key])
        else:
            place[key] = [place[key]]
        if not place:
            break
    return data


def bytes_garbled(rng, content):
    """A copy cut off, with bytes replaced or put in, or a part of it twice."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(content) + 1)
        what = rng.random()
        if what < 0.2:
            del content[at:]
        elif what < 0.5:
            content[at : at + rng.choice([0, 1, 5])] = rng.choice(BYTES)
        elif what < 0.8 and at < len(content):
            content[at] = rng.randrange(256)
        else:
            content[at:at] = content[at : at + rng.randrange(200)]
    return bytes(content)


def garbled(rng, data):
    if rng.random() < 0.6:
        return json.dumps(values_garbled(rng, data)).encode(errors="replace")
    return bytes_garbled(rng, json.dumps(data, indent=2).encode())


def told_or_read(path, read):
    """Whether ``path`` was read; where not, it was a sentence of ours that names it."""
    try:
        read()
    except JaxdreamerError as error:
        assert str(path) in str(error), error
        assert len(str(error)) < 2000 + len(str(path)), error
        return False
    return True


def test_configurations(tmp_path):
    rng, path, read = random.Random(0), tmp_path / "config.json", 0
    for _ in range(600):
        path.write_bytes(garbled(rng, STORED_CONFIG))
        read += told_or_read(path, lambda: _checked(configs.load(path)))
    assert 30 < read < 400  # a setting that is gone, or another number, is fine


def _checked(config):
    assert isinstance(config, Config) and configs.from_dict(configs.to_dict(config)) == config


def test_configurations_in_yaml(tmp_path):
    rng, path = random.Random(1), tmp_path / "config.yaml"
    bombs = [
        "a: &a [x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}, *{p}]\n" for p, n in zip("abcdefghijklm", "bcdefghijklmn"))
    ]
    bombs += [
        "&a [*a]",
        "{env: &e {id: *e}}",
        "!!python/object/apply:os.system [exit]",
        "seed: 2020-13-45",
        "seed: 0x" + "f" * 9000,
    ]
    bombs += ["? [a]\n: b", "1: 2", "env: {1: 2}", "model:\n  deter_size: !!binary aGk=", "[" * 5000]
    for text in bombs:
        path.write_text(text)
        assert not told_or_read(path, lambda: configs.load(path)), text
    for _ in range(100):
        path.write_bytes(bytes_garbled(rng, b"seed: 3\nenv:\n  id: Pendulum-v1\n  image_size: [64, 64]\n"))
        told_or_read(path, lambda: configs.load(path))


def test_specs(tmp_path):
    rng, path, read = random.Random(2), tmp_path / "spec.json", 0
    for _ in range(600):
        path.write_bytes(garbled(rng, STORED_SPEC))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="gymnasium")  # of bounds that a type holds less exactly
            read += told_or_read(path, lambda: EnvSpec.from_dict(read_spec(path).to_dict()))
            read += told_or_read(path, lambda: read_spaces(path))
    assert 100 < read < 1000


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("obs", "image", "shape"), [100_000, 100_000, 3]),
        (("obs", "state", "shape"), [2**31 - 1, 2**31 - 1]),
        (("action", 1, "size"), 2**31 - 1),
        (
            ("spaces", "observation"),
            {"kind": "Box", "dtype": "uint8", "shape": [10**5, 10**6, 3], "low": 0, "high": 255},
        ),
        (("spaces", "observation"), {"kind": "Box", "dtype": "float32", "shape": [2**27], "low": 0, "high": 1}),
        (
            ("spaces", "observation"),
            {
                "kind": "Tuple",
                "spaces": [{"kind": "Box", "dtype": "float32", "shape": [2**24], "low": 0, "high": 1}] * 5,
            },
        ),
        (("obs",), {f"key {index}": STORED_SPEC["obs"]["state"] for index in range(5000)}),
        (("spaces", "observation"), {"kind": "MultiBinary", "n": [2**10, 2**10]}),
        (
            ("spaces", "action"),
            {"kind": "MultiDiscrete", "dtype": "int64", "nvec": [2] * 2**17, "start": [0] * 2**17},
        ),
    ],
)
def test_a_spec_that_asks_for_more_than_there_is_or_any_has(tmp_path, place, value, monkeypatch):
    monkeypatch.setattr("jaxdreamer.memory.available_memory", lambda: 2**32)
    data = copy.deepcopy(STORED_SPEC)
    entry = data
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(data))
    told = r"would take .* bytes\), but only 4\.29 GB is available|at most [\d,]+ (numbers|choices|observations), found"
    with pytest.raises(JaxdreamerError, match=told):
        (read_spaces if place[0] == "spaces" else read_spec)(path)


def test_metrics(tmp_path):
    rng, path, drawn = random.Random(3), tmp_path / "metrics.jsonl", 0
    with MetricsLog(path) as log:
        for step in range(20):
            log.write(
                {"eval/return": step**0.5, "loss/model": 1.0}, agent_steps=step, env_frames=2 * step, updates=step
            )
    whole = path.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    for index in range(400):
        if rng.random() < 0.5:
            path.write_bytes(bytes_garbled(rng, whole))
        else:
            damaged = [values_garbled(rng, line) if rng.random() < 0.3 else line for line in lines]
            path.write_text("".join(json.dumps(line) + "\n" for line in damaged))
        if told_or_read(path, lambda: [spark([y for _, y in points]) for points in read_curves([path]).values()]):
            drawn += 1
            bands = {name: band([points]) for name, points in read_curves([path]).items()}
            assert "nan" not in chart(bands, bands, "env frames", "return").partition(" aria-label")[2]
            if index % 40 == 0:
                draw(bands, tmp_path / "curve.png")
        with MetricsLog(path) as log:  # as a run that goes on
            log.truncate(len(whole) // 2, env_frames=20)
    assert drawn > 200


def test_the_command_line_over_garbled_folders(tmp_path, capsys):
    rng = random.Random(4)
    for index in range(30):
        run = RunDir(tmp_path / str(index)).create()
        stored = [STORED_CONFIG, STORED_SPEC]
        config, spec = (garbled(rng, data) if rng.random() < 0.7 else json.dumps(data).encode() for data in stored)
        run.config.write_bytes(config)
        run.spec.write_bytes(spec)
        run.metrics.write_bytes(rng.choice([b"", b"{}\n", b"\xff\n", b"[1]\n{"]))
        for command in ("evaluate", "plot"):  # of a run that has neither a checkpoint nor a curve
            assert cli.main([command, str(run.path)]) == 2
            assert str(run.path) in capsys.readouterr().err
        assert cli.main(["runs", str(run.path)]) == 0
        assert cli.main(["report", str(run.path), "--out", str(tmp_path / "report.html")]) == 0
        capsys.readouterr()
