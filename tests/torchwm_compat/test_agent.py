"""DreamerAgent: built, trained, evaluated, saved, reloaded and resumed; the same numbers as jaxdreamer's own."""

from __future__ import annotations

import json
import pickle
import re
import signal
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import pytest
import yaml
from rich.console import Console

import jaxdreamer
from jaxdreamer import ConfigError
from tests.envs.toy import CountingEnv
from tests.torchwm_compat import cases
from torchwm_compat.agent import dreamer as module
from torchwm_compat.agent.dreamer import DreamerAgent
from torchwm_compat.agent.training import RUN, Sink, instance_maker
from torchwm_compat.arrays import has_torch
from torchwm_compat.config.settings import DreamerConfig
from torchwm_compat.networks.views import RSSM


@pytest.fixture
def mocked(monkeypatch):
    """An environment and a logger that are none: as torchwm's own tests have it."""
    env, logger = Mock(), Mock()
    env.observation_space = {"image": Mock(shape=cases.IMAGE)}
    env.action_space = Mock(shape=(2,))
    monkeypatch.setattr(module, "make_env", Mock(return_value=env))
    monkeypatch.setattr(module, "Logger", logger)
    return env, logger


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An agent after 100 frames of Pendulum-v1 from pixels."""
    agent = DreamerAgent(cases.config(logdir=str(tmp_path_factory.mktemp("trained"))))
    agent.train()
    return agent


def lines(agent):
    with open(f"{agent.logdir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


# ---- building -----------------------------------------------------------------------------------------------------------


def test_what_it_is_made_of(mocked, tmp_path):
    env, logger = mocked
    config = cases.config(logdir=str(tmp_path))
    agent = DreamerAgent(config)
    assert agent.args is config and isinstance(agent.dreamer.rssm, RSSM)
    assert agent.train_env is agent.test_env is env and module.make_env.call_count == 2
    assert agent.logger is logger.return_value and logger.call_args.args == (str(tmp_path),)
    assert DreamerConfig.from_yaml(tmp_path / "config.yaml") == config
    assert agent.dreamer.obs_shape == cases.IMAGE and agent.dreamer.action_size == 2
    summary = agent.summary()
    assert list(summary) == ["total_parameters", "trainable_parameters", "modules", "trainable_modules"]
    assert set(summary["modules"]) == {"rssm", "actor", "reward_model", "obs_encoder", "obs_decoder", "value_model"}
    assert agent.parameter_count() == agent.parameter_count(trainable_only=True) == summary["total_parameters"] > 0
    assert summary["total_parameters"] == sum(x.size for x in jax.tree.leaves(agent.dreamer.params))


def test_the_default_sizes_have_torchwms_numbers_of_parameters(mocked, tmp_path):
    mocked[0].observation_space["image"].shape = (3, 64, 64)
    mocked[0].action_space.shape = (6,)
    agent = DreamerAgent(DreamerConfig(logdir=str(tmp_path), buffer_size=10))
    assert agent.summary()["modules"] == {
        "rssm": 557920,
        "actor": 578412,
        "reward_model": 253201,
        "obs_encoder": 690144,
        "obs_decoder": 3795555,
        "value_model": 413601,
    }


def test_arguments(mocked, tmp_path):
    ref = [None]
    agent = DreamerAgent(cases.config().to_dict(), logdir=str(tmp_path / "a"), seed=5, last_latents_ref=ref)
    assert agent.args.seed == 5 and agent.last_latents_ref is ref and agent.logdir == str(tmp_path / "a")
    with pytest.raises(ValueError, match=r"^Invalid argument: invalid_arg$"):
        DreamerAgent(cases.config(), invalid_arg="test")
    with pytest.raises(ValueError, match=r"^Invalid DreamerConfig override: nope$"):
        DreamerAgent.from_config(cases.config(), nope=1)
    with pytest.raises(ConfigError, match="expected Dreamerv1 or Dreamerv2"):
        DreamerAgent(cases.config(algo="dreamer"), logdir=str(tmp_path / "b"))
    path = tmp_path / "c.yaml"
    cases.config(logdir=str(tmp_path / "run")).to_yaml(path)
    assert DreamerAgent.from_config(path, seed=99).args.seed == 99 and (tmp_path / "run" / "config.yaml").exists()


def test_where_runs_lie(mocked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHWM_DATA_DIR", str(tmp_path / "env"))
    named = r"Pendulum-v1_Dreamerv1_lr1e-3_\d\d-\d\d-\d{4}-\d\d-\d\d-\d\d"
    for changes, parent in (
        ({"data_path": str(tmp_path / "data")}, tmp_path / "data"),
        ({}, tmp_path / "env"),
    ):
        folder = DreamerAgent(cases.config(), **changes).logdir
        assert folder.startswith(str(parent)) and re.search(named, folder)
    monkeypatch.delenv("TORCHWM_DATA_DIR")
    assert DreamerAgent(cases.config()).logdir.startswith(str(tmp_path / "runs"))
    assert DreamerAgent(cases.config(logdir="mine")).logdir == str(tmp_path / "runs" / "mine")


def test_evaluate_calls_what_torchwms_does(mocked, tmp_path):
    agent = DreamerAgent(cases.config(logdir=str(tmp_path), test_episodes=4), last_latents_ref=[None])
    given = np.array([4.0, 5.0]), np.array([[]]), np.ones((2, 1, 20))
    agent.dreamer.evaluate = Mock(return_value=given)
    assert agent.evaluate() == given
    agent.dreamer.evaluate.assert_called_once_with(agent.test_env, 4, render=True)
    agent.logger.dump_scalars_to_pickle.assert_called_once()
    assert agent.logger.dump_scalars_to_pickle.call_args.args[0]["test_avg_reward"] == 4.5
    agent.logger.log_videos.assert_called_once()
    assert agent.last_latents_ref[0] is given[2]


def test_an_export_goes_through_the_modules_function(mocked, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from torchwm_compat.files import export

    calls = {}
    monkeypatch.setattr(export, "export_model", lambda net, path, **kwargs: calls.update(net=net, **kwargs) or path)
    agent = DreamerAgent(cases.config(logdir=str(tmp_path)))
    assert agent.export(tmp_path / "a.onnx", format="onnx") == tmp_path / "a.onnx"
    assert calls["format"] == "onnx" and calls["example_inputs"].shape == (1, 20)
    assert calls["net"](calls["example_inputs"]).shape == (1, 2)


# ---- a whole run ----------------------------------------------------------------------------------------------------------


def test_a_run_writes_torchwms_files_and_names(trained):
    """T26, T27: evaluated and saved at the first round at or after each interval; evaluations are evaluations."""
    assert list(trained.dreamer.spec.obs) == ["image"]  # pixels, as torchwm's agents see
    folder = trained.logdir
    assert yaml.safe_load(Path(folder, "config.yaml").read_text())["env"] == "Pendulum-v1"
    found = lines(trained)
    assert {"step", "time"} <= found[0].keys()
    names = {name for line in found for name in line}
    assert {"model_loss", "actor_loss", "value_loss", "throughput/env_steps_per_sec", "throughput/grad_steps_per_sec",
            "replay/fill_ratio", "replay/steps", "replay/episodes"} <= names  # fmt: skip
    assert {f"{kind}_{what}_reward" for kind in ("train", "eval") for what in ("avg", "max", "min", "std")} <= names
    assert [line["step"] for line in found if "eval_avg_reward" in line] == [47, 95]  # of 50 and 100 entries
    assert found[-2]["replay/episodes"] == 4
    assert found[-2]["replay/steps"] == 64 and found[-2]["replay/fill_ratio"] == 1.0
    with open(f"{folder}/scalar_data.pkl", "rb") as file:
        assert pickle.load(file)["step"] == found[0]["step"]


def test_the_run_is_jaxdreamers_own(trained, tmp_path):
    """Same settings, same seed, same numbers; the facade adds nothing and takes nothing away."""
    config = jaxdreamer.load_run(f"{trained.logdir}/{RUN}")[0]
    result = jaxdreamer.train_agent(config, tmp_path / "own", console=Console(quiet=True))
    for ours, own in zip(jax.tree.leaves(trained.dreamer.params), jax.tree.leaves(result.state.params)):
        np.testing.assert_array_equal(ours, own)
    assert [line["eval_avg_reward"] for line in lines(trained) if "eval_avg_reward" in line][-1] == pytest.approx(
        np.mean(result.evaluation.returns)
    )


def test_it_evaluates_saves_reloads_and_resumes(trained, tmp_path):
    """T9, T10."""
    pytest.importorskip("torch")
    rewards, videos, latents = trained.evaluate()
    assert (
        rewards.shape == (2,)
        and (rewards < 0).all()
        and videos.shape == (2, 20, 16, 16, 3)
        and latents.shape == (40, 1, 20)
    )
    with open(f"{trained.logdir}/test_scalars.pkl", "rb") as file:
        assert pickle.load(file)["test_avg_reward"] == pytest.approx(rewards.mean())
    assert {f.name for f in Path(trained.logdir).glob("video*")} == {
        "video0_0.gif",
        "video0_1.gif",
    }
    again = DreamerAgent.from_pretrained(f"{trained.logdir}/ckpts/100_ckpt.pt", logdir=str(tmp_path / "again"))
    for old, new in zip(jax.tree.leaves(trained.dreamer.params), jax.tree.leaves(again.dreamer.params)):
        np.testing.assert_array_equal(old, new)
    # The same folder goes on; another begins with what was restored.
    same = DreamerAgent(trained.args)
    same.train(120)
    assert int(same.dreamer.state.updates) > int(trained.dreamer.state.updates)
    assert [line["step"] for line in lines(trained)][-1] == 114
    other = DreamerAgent(
        cases.config(
            restore=True, checkpoint_path=f"{trained.logdir}/ckpts/100_ckpt.pt", logdir=str(tmp_path / "other")
        )
    )
    assert int(other.dreamer.state.updates) == int(trained.dreamer.state.updates)
    other.train(20)
    assert int(other.dreamer.state.updates) >= int(trained.dreamer.state.updates)


def test_ctrl_c_saves_and_ends_the_script(tmp_path, monkeypatch):
    """Its next line must not go on as if all were learned; the same script again goes on with the run."""
    agent = DreamerAgent(cases.config(logdir=str(tmp_path), obs="state"))
    write, sent = Sink.write, []

    def write_and_interrupt(self, record, step):
        write(self, record, step)
        if not sent:
            sent.append(step)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Sink, "write", write_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.train()
    assert 0 < sent[0] < 100
    again = DreamerAgent(cases.config(logdir=str(tmp_path), obs="state"))
    again.train()
    assert int(again.dreamer.state.updates) > int(agent.dreamer.state.updates)
    assert lines(again)[-1]["step"] == 95


ALL_ONE = ("batch_size", "train_seq_len", "imagine_horizon", "obs_embed_size", "num_units", "deter_size", "stoch_size",
           "collect_steps", "update_steps", "test_episodes", "buffer_size", "action_repeat")  # fmt: skip


def test_every_size_may_be_one(tmp_path):
    """A hundred frames of Pendulum-v1 with every number 1: trained, evaluated, saved and loaded."""
    sizes = dict.fromkeys(ALL_ONE, 1) | {"seed_steps": 95, "test_interval": 0, "free_nats": 0}
    agent = DreamerAgent(cases.config(**sizes, logdir=str(tmp_path / "run")))
    before = agent.dreamer.state_dicts()
    agent.train(total_steps=100)
    after = agent.dreamer.state_dicts()
    for name, network in after.items():
        assert all(np.isfinite(array).all() for array in network.values()), name
        assert any((array != before[name][key]).any() for key, array in network.items()), name
    assert int(agent.dreamer.state.updates) == 6 and agent.dreamer.metrics["loss/model"] > 0
    rewards, videos, _ = agent.evaluate()
    assert rewards.shape == (1,) and videos.shape == (1, 20, 16, 16, 3)
    if not has_torch():
        return
    again = DreamerAgent.from_pretrained(tmp_path / "run" / "ckpts" / "100_ckpt.pt", logdir=str(tmp_path / "again"))
    for name, network in again.dreamer.state_dicts().items():
        for key, array in network.items():
            np.testing.assert_array_equal(array, after[name][key])


def test_the_agent_can_see_the_state_instead(tmp_path):
    """T12; and T29: a ready environment, which is neither written to YAML nor closed."""
    agent = DreamerAgent(
        cases.config(env_instance=CountingEnv(action="box", truncate_at=9), obs="state", logdir=str(tmp_path))
    )
    assert list(agent.dreamer.spec.obs) == ["state"] and agent.dreamer.spec.action.size == 2
    agent.train(60)
    assert [line["eval_avg_reward"] for line in lines(agent) if "eval_avg_reward" in line][-1] == 45.0
    rewards, videos, _ = agent.evaluate()
    assert rewards.tolist() == [45.0, 45.0] and videos.shape == (2, 9, 16, 16, 3)
    assert jaxdreamer.load_run(tmp_path / RUN)[0].env.backend == "custom"


def test_choices_are_choices(tmp_path):
    """T21: a categorical actor, and what it chose is what the environment does."""
    agent = DreamerAgent(cases.config(env="CartPole-v1", obs="state", logdir=str(tmp_path)))
    assert [part.kind for part in agent.dreamer.spec.action.parts] == ["discrete"]
    agent.dreamer.act_and_collect_data(agent.train_env, 6)
    actions = agent.dreamer.data_buffer._rows()["action"][1:]
    assert set(np.unique(actions)) <= {0.0, 1.0}
    agent.train_env.close()


def test_an_environment_that_cannot_be_copied_is_shared():
    class Single(CountingEnv):
        def __deepcopy__(self, memo):
            raise TypeError("there is only one")

    config = jaxdreamer.preset("dreamer_v1", "action_repeat=1")
    instance = Single(action="box", truncate_at=9)
    make = instance_maker(instance, config)
    training, evaluation = make(), make()
    action = np.zeros(2, np.float32)
    training.reset()
    assert training.step(action).obs["state"][1] == 1
    evaluation.reset()
    assert evaluation.step(action).obs["state"][1] == 1
    assert training.step(action).is_first  # its episode broke off, and another began
    assert not training.step(action).is_first


# ---- exporting ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.load:DeprecationWarning")
def test_exported_actors_act_alike(trained, tmp_path):
    torch = pytest.importorskip("torch")
    feat = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    dist = trained.dreamer.programs.networks.actor(trained.dreamer.params["actor"], feat)
    path = trained.export(tmp_path / "actor.pt", format="torchscript")
    loaded = torch.jit.load(str(path))
    np.testing.assert_allclose(loaded(torch.as_tensor(feat)).detach().numpy(), dist.mode(), atol=1e-5)
    encoder = torch.jit.load(str(trained.export(tmp_path / "deep" / "enc.pt", format="jit", target="obs_encoder")))
    image = np.random.default_rng(0).integers(0, 256, (2, *cases.IMAGE)).astype(np.float32) / 255 - 0.5
    np.testing.assert_allclose(
        encoder(torch.as_tensor(image)).detach().numpy(), trained.dreamer.obs_encoder(image), atol=1e-5
    )
    for target, view in (("reward_model", trained.dreamer.reward_model), ("value_model", trained.dreamer.value_model)):
        head = torch.jit.load(str(trained.export(tmp_path / f"{target}.pt", format="ts", target=target)))
        np.testing.assert_allclose(head(torch.as_tensor(feat)).detach().numpy(), view(feat).mean, atol=1e-4)


def test_onnx_acts_alike(trained, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = trained.export(tmp_path / "actor.onnx")
    feat = np.random.default_rng(0).normal(size=(1, 20)).astype(np.float32)
    dist = trained.dreamer.programs.networks.actor(trained.dreamer.params["actor"], feat)
    (found,) = runtime.InferenceSession(str(path)).run(None, {"features": feat})
    np.testing.assert_allclose(found, dist.mode(), atol=1e-5)


def test_the_whole_policy_is_exported_by_jaxdreamer(trained, tmp_path):
    from jax import export

    folder = trained.export(tmp_path / "policy", "stablehlo", target="policy")
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["observations"][0]["name"] == "observation.image" and contract["actions"][0]["shape"] == [1]
    call = export.deserialize(bytearray((folder / "policy.stablehlo").read_bytes())).call
    found = []
    for level in (0, 255):
        inputs = {x["name"]: np.zeros((1, *x["shape"]), x["dtype"]) for x in (*contract["state"], *contract["noise"])}
        image = np.full((1, *contract["observations"][0]["shape"]), level, np.uint8)
        found.append(
            call(inputs | {"is_first": np.array([True]), "observation.image": image})["next.state.latent.stoch"]
        )
    assert not np.allclose(*found)  # it sees


def test_what_cannot_be_exported_is_said(trained, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"Unsupported export format 'x'\. Use one of: onnx, tensorrt, torchscript\."):
        trained.export(tmp_path / "a", format="x")
    with pytest.raises(RuntimeError, match="TensorRT export requires the optional torch-tensorrt package"):
        trained.export(tmp_path / "a", format="trt")
    with pytest.raises(
        ConfigError, match="export target: expected one of actor, obs_encoder, reward_model, value_model"
    ):
        trained.export(tmp_path / "a", target="rssm")
    with pytest.raises(ValueError, match="example_inputs is required for ONNX export"):
        from torchwm_compat.files.export import export_model

        export_model(None, tmp_path / "a", "onnx")
