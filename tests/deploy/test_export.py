"""Policies as files: processes without this library act as the agent does, and the contract says all they need."""

import json
import pickletools
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

import jaxdreamer
from jaxdreamer import cli
from jaxdreamer.config import ConfigError
from jaxdreamer.deploy import formats
from jaxdreamer.deploy.export import export_policy
from jaxdreamer.deploy.step import policy_step
from jaxdreamer.errors import MissingExtra
from tests.deploy.test_agent import untrained
from tests.envs.toy import CountingEnv, action_spaces

HERE = Path(__file__).parent
LOOP = HERE.parent.parent / "docs" / "examples" / "robot_loop.py"
STEPS = {"state": 200, "pixels": 200, "choices": 40}


def agent_of(name, run):
    """A fresh agent: V3 from numbers, trained; V3 and V2 from pixels, with parameters that make much of what they see."""
    if name == "state":
        return jaxdreamer.load_agent(run)
    words, task, seen = {
        "pixels": ("classic,tiny", "Pendulum-v1", "pixels"),
        "choices": ("dreamer_v2,tiny", "CartPole-v1", "both"),
    }[name]
    env = gymnasium.make(task, render_mode="rgb_array")
    agent, _ = untrained(env, (f"obs={seen}", "image_size=16,16"), preset_words=words)
    env.close()
    agent.params = jax.tree.map(lambda x: 2 * x, agent.params)
    return agent


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    pytest.importorskip("jax2onnx")
    others = {name: tmp_path_factory.mktemp(name) for name in ("pixels", "choices")}
    return {"state": export_policy(run)} | {name: export_policy(agent_of(name, run), at) for name, at in others.items()}


def noise_of(agent, ports):
    """What ``agent.act`` is going to draw, for one lane, as the contract names it."""
    key_act = jax.random.split(agent._keys[0])[1]
    key_latent, key_action, _ = jax.random.split(key_act, 3)
    drawn = {}
    for port in ports:
        draw = {"standard_normal": jax.random.normal, "gumbel": jax.random.gumbel}[port["distribution"]]
        if port["name"] == "noise.latent":
            drawn[port["name"]] = draw(key_latent, (1, *port["shape"]))[0]
        else:  # V1's best of many samples
            count, *rest = port["shape"]
            assert count == 100
            drawn[port["name"]] = np.stack([draw(key, (1, *rest))[0] for key in jax.random.split(key_action, count)])
    return drawn


def record(agent, task, folder, steps, tmp_path):
    """The agent plays: observations, noise and actions of every step."""
    contract = json.loads((folder / "contract.json").read_text())
    env = gymnasium.make(task, render_mode="rgb_array")
    tape, actions = {}, []
    obs, _ = env.reset(seed=1)
    for step in range(steps):
        raw = obs if agent.config.env.obs == "auto" else {"state": obs, "image": env.render()}
        arrays = agent._observations(raw if agent.config.env.obs != "pixels" else raw["image"], None)
        for key, array in arrays.items():
            tape.setdefault(f"observation.{key}", []).append(array[0])
        for name, array in noise_of(agent, contract["noise"]).items():
            tape.setdefault(name, []).append(np.asarray(array))
        actions.append(agent.act(raw if agent.config.env.obs != "pixels" else raw["image"], first=step == 0))
        obs, _, ended, truncated, _ = env.step(actions[-1])
        if ended or truncated:
            obs, _ = env.reset()
    env.close()
    np.savez(tmp_path / "tape.npz", **{name: np.stack(items) for name, items in tape.items()})
    return tmp_path / "tape.npz", np.stack(actions)


@pytest.mark.parametrize("kind", ["onnx", "jax"])
@pytest.mark.parametrize("name", STEPS)
def test_another_process_follows_the_agent(run, exported, tmp_path, name, kind):
    task = "CartPole-v1" if name == "choices" else "Pendulum-v1"
    tape, actions = record(agent_of(name, run), task, exported[name], STEPS[name], tmp_path)
    command = [sys.executable, HERE / "robot.py", kind, exported[name], tape, tmp_path / "found.npz", LOOP]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert f"{STEPS[name]} steps, each " in child.stdout and " ms" in child.stdout
    print(name, kind, child.stdout.strip())
    found = np.load(tmp_path / "found.npz")["action"]
    assert found.shape == actions.shape and len(found) == STEPS[name]
    assert np.std(actions) > 1e-4  # or following it would prove nothing
    np.testing.assert_allclose(found, actions, atol=1e-4)


def test_the_best_of_many_samples_is_v1s(run):
    env = gymnasium.make("Pendulum-v1")
    agent, _ = untrained(env, preset_words="dreamer_v1,tiny")
    out = agent.params["actor"]["out"]
    out["bias"] = np.array(
        [0.0, -7.0], np.float32
    )  # narrow: of a wide one rounding chooses among samples at the bounds
    step = policy_step(agent)
    function = jax.jit(step.function)
    ports = [x.describe() for x in step.noise]
    assert [x["shape"] for x in ports] == [[4], [100, 1]]
    state = {x.name: np.zeros((1, *x.shape), x.dtype) for x in step.state}
    obs, _ = env.reset(seed=0)
    found, wanted = [], []
    for t in range(20):
        noise = {name: np.asarray(x)[None] for name, x in noise_of(agent, ports).items()}
        given = function({"observation.state": obs[None], "is_first": np.array([t == 0])} | state | noise)
        state = {x.name: given[f"next.{x.name}"] for x in step.state}
        found.append(given["action"][0])
        wanted.append(agent.act(obs, first=t == 0))
        obs, *_ = env.step(wanted[-1])
    assert np.std(wanted) > 0.01 and np.abs(wanted).max() < 1.99
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_robot_loop_keeps_its_rate_with_nothing_installed_but_onnxruntime(exported):
    child = subprocess.run([sys.executable, LOOP, exported["state"], "25"], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("'action': array") == 25 and "25 steps, each" in child.stdout
    source = LOOP.read_text()
    assert "jax" not in source and len([line for line in source.splitlines() if line.strip()]) < 45


def test_the_contract_says_what_goes_in_and_out(exported, run):
    contract = json.loads((exported["state"] / "contract.json").read_text())
    (seen,) = contract["observations"]
    assert (seen["name"], seen["shape"], seen["dtype"]) == ("observation.state", [3], "float32")
    assert seen["space"]["high"] == [1.0, 1.0, 8.0]
    (action,) = contract["actions"]
    assert (action["low"], action["high"], action["units"]) == ([-2.0], [2.0], "the environment's own")
    repeat = jaxdreamer.load_agent(run).config.env.action_repeat
    assert contract["control"]["rate_hz"] == pytest.approx(20.0 / repeat)  # Pendulum's dt is 0.05 s
    assert contract["is_first"]["dtype"] == "bool" and contract["acts_by"] == "greedy"
    assert {x["output"] for x in contract["state"]} == {f"next.{x['name']}" for x in contract["state"]}
    cart = json.loads((exported["choices"] / "contract.json").read_text())
    assert cart["actions"][0]["choices"] == [2] and cart["actions"][0]["shape"] == []
    image = next(x for x in cart["observations"] if x["kind"] == "image")
    assert image["shape"] == [16, 16, 3] and image["dtype"] == "uint8"


def test_nothing_in_the_files_is_pickled(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported["pixels"] / "policy.onnx")
    onnx.checker.check_model(model)
    assert not [node for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    for path in exported["pixels"].iterdir():
        with pytest.raises(ValueError):
            for _ in pickletools.genops(path.read_bytes()):
                pass


def test_the_batch_is_of_any_size_and_places_do_not_mix(exported):
    from jax import export

    call = export.deserialize(bytearray((exported["pixels"] / "policy.stablehlo").read_bytes()))
    assert set(call.platforms) == {"cpu", "cuda", "tpu"}
    contract = json.loads((exported["pixels"] / "contract.json").read_text())
    inputs = some_inputs(contract, 3)
    three = call.call(inputs)
    for place in range(3):
        one = call.call({name: array[place : place + 1] for name, array in inputs.items()})
        for name, array in one.items():
            np.testing.assert_allclose(array[0], three[name][place], atol=1e-5)
    # Where an episode begins, the state that is given does not count.
    inputs["is_first"][:] = True
    other = inputs | {x["name"]: inputs[x["name"]] + 1 for x in contract["state"]}
    np.testing.assert_array_equal(call.call(inputs)["action"], call.call(other)["action"])
    inputs["is_first"][:] = other["is_first"][:] = False
    assert not np.array_equal(*(call.call(x)["next.state.latent.deter"] for x in (inputs, other)))


def some_inputs(contract, count):
    rng = np.random.default_rng(0)
    inputs = {"is_first": np.zeros(count, bool)}
    for port in [*contract["observations"], *contract["state"], *contract["noise"]]:
        shape = (count, *port["shape"])
        if port["dtype"] == "float32":
            inputs[port["name"]] = rng.normal(size=shape).astype(np.float32)
        else:
            inputs[port["name"]] = rng.integers(1, 4, shape).astype(port["dtype"])
    return inputs


KINDS = {**action_spaces(), "integers": spaces.Box(np.array([-3, 0], np.int8), np.array([4, 1], np.int8))}


@pytest.mark.parametrize("kind", ["dict", "tuple", "offset", "multi_discrete", "integers"])
def test_actions_are_those_of_the_environments_adapter(kind):
    """In the environment's own units, for every kind of space: what ActionMap makes of the same numbers."""
    agent, env = untrained(CountingEnv("dict", action=KINDS[kind]), ("image_size=16,16",))
    step = policy_step(agent, "sample")
    contract = {
        "observations": [x.describe() for x in step.observations],
        "state": [x.describe() for x in step.state],
        "noise": [x.describe() for x in step.noise],
    }
    found = jax.jit(step.function)(some_inputs(contract, 4))
    for lane in range(4):
        value = env.simulator.to_env(np.asarray(found["next.state.action"][lane]))
        for leaf in agent.actions.leaves:
            expected = value
            for name in leaf.path:
                expected = expected[name]
            got = np.asarray(found[leaf.key][lane])
            assert got.shape == np.shape(expected) and (got.dtype.kind == "i") == (leaf.dtype.kind != "f")
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_observations_come_in_the_environments_numbers():
    class Counted(gymnasium.Env):
        observation_space = spaces.Dict(
            {
                "ram": spaces.Box(0, 255, (5,), np.uint8),
                "gear": spaces.Discrete(4, start=1),
                "x": spaces.Box(-1, 1, (2,)),
            }
        )
        action_space = spaces.Discrete(2)

    agent, _ = untrained(Counted(), preset_words="dreamer_v2,tiny")
    raw = {"ram": np.array([0, 255, 7, 51, 3], np.uint8), "gear": 3, "x": np.array([0.5, -1], np.float32)}
    step = policy_step(agent)
    inputs = {
        "observation.ram": np.asarray(raw["ram"], np.float32)[None],
        "observation.gear": np.array([3], np.int32),
        "observation.x": raw["x"][None],
        "is_first": np.array([True]),
    }
    inputs |= {x.name: np.zeros((1, *x.shape), x.dtype) for x in step.state}
    contract = [x.describe() for x in step.noise]
    inputs |= {name: np.asarray(x)[None] for name, x in noise_of(agent, contract).items()}
    found = jax.jit(step.function)(inputs)
    assert int(found["action"][0]) == agent.act(raw)
    for name, leaf in zip([x.name for x in step.state], jax.tree.leaves(agent.state)):
        np.testing.assert_allclose(found[f"next.{name}"], leaf, atol=1e-5)


def test_the_command_line(run, tmp_path, capsys):
    assert cli.main(["export", str(run), "-o", str(tmp_path / "out"), "--format", "stablehlo", "--sample"]) == 0
    said = capsys.readouterr().out
    assert "policy.stablehlo" in said and "contract.json" in said and "Hz" in said
    contract = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert contract["acts_by"] == "sample" and list(contract["files"]) == ["stablehlo"]
    assert {x["name"] for x in contract["noise"]} == {"noise.latent", "noise.action"}
    assert not (tmp_path / "out" / "policy.onnx").exists()
    assert cli.main(["export", str(tmp_path / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_what_cannot_be_exported_is_said(run, tmp_path, without):
    agent, _ = untrained(CountingEnv("vector"))
    with pytest.raises(ConfigError, match="format must be one of stablehlo, onnx, both, found 'pt'"):
        export_policy(agent, tmp_path, format="pt")
    with pytest.raises(ConfigError, match="an agent belongs to no folder"):
        export_policy(agent)
    with pytest.raises(ConfigError, match="acts_by must be greedy or sample, found 'best'"):
        export_policy(agent, tmp_path, acts_by="best")
    agent.algorithm = agent.algorithm._replace(policy=agent.algorithm.policy._replace(decide=None))
    with pytest.raises(ConfigError, match="cannot be exported: its Policy has no `decide`"):
        export_policy(agent, tmp_path)
    without("jax2onnx")
    without("flatbuffers")
    for format in ("onnx", "stablehlo"):
        with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[export\]'"):
            export_policy(run, tmp_path / "none", format=format)
    assert not (tmp_path / "none").exists()


def test_an_operation_that_onnx_lacks_is_named():
    pytest.importorskip("jax2onnx")
    same = lambda x: x  # noqa: E731
    with pytest.raises(formats.NotExportable, match=r"cannot write this as ONNX: .*platform_index"):
        formats.to_onnx(
            lambda x: {"y": jax.lax.platform_dependent(x["x"], cpu=same, default=same)}, {"x": ((3,), "float32")}, ["y"]
        )
    with pytest.raises(ConfigError, match="without inputs"):
        formats.to_onnx(lambda _: {"y": jax.numpy.zeros(3)}, {}, ["y"])
