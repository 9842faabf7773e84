"""Files in torchwm's format: both ways, and what is refused."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest

from jaxdreamer import MissingExtra
from tests.torchwm_compat import cases
from torchwm_compat import arrays
from torchwm_compat.agent.core import Dreamer
from torchwm_compat.files.checkpoint import CheckpointError, read

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An agent after two updates, and its folder."""
    dreamer = cases.dreamer()
    dreamer.collect_random_episodes(cases.OldEnv(5), 40)
    for _ in range(2):
        dreamer.train_one_batch()
    folder = tmp_path_factory.mktemp("saved")
    dreamer.save(folder / "model.pt")
    return dreamer, folder


def test_plain_torch_reads_it_and_finds_torchwms_keys_names_and_shapes(saved):
    _dreamer, folder = saved
    data = torch.load(folder / "model.pt", weights_only=True)
    assert list(data)[:3] == ["config", "obs_shape", "action_size"]
    assert {"rssm", "actor", "reward_model", "obs_encoder", "obs_decoder", "discount_model", "actor_optimizer",
            "value_optimizer", "world_model_optimizer", "value_model", "jaxdreamer"} == set(list(data)[3:])  # fmt: skip
    assert data["discount_model"] is None and data["obs_shape"] == cases.IMAGE and data["action_size"] == 2
    shapes = {name: tuple(x.shape) for name, x in data["rssm"].items()}
    assert shapes["rnn.weight_ih"] == shapes["rnn.weight_hh"] == (48, 16) and shapes["fc_state_action.weight"] == (
        16,
        6,
    )
    assert shapes["fc_embed_posterior.weight"] == (16, 32) and shapes["fc_state_posterior.weight"] == (8, 16)
    assert list(data["actor"]) == [f"action_model.{i}.{k}" for i in (0, 2, 4, 6, 8) for k in ("weight", "bias")]
    assert list(data["reward_model"]) == [f"model.{i}.{k}" for i in (0, 2, 4) for k in ("weight", "bias")]
    assert list(data["value_model"]) == [f"model.{i}.{k}" for i in (0, 2, 4, 6) for k in ("weight", "bias")]
    assert data["config"]["deter_size"] == 16 and (folder / "config.yaml").exists()


def test_torchs_adam_takes_the_optimizers_over(saved):
    """As torchwm's restore_checkpoint does."""
    _, folder = saved
    data = torch.load(folder / "model.pt", weights_only=True)
    owned = {
        "actor_optimizer": ["actor"],
        "value_optimizer": ["value_model"],
        "world_model_optimizer": ["rssm", "obs_encoder", "obs_decoder", "reward_model"],
    }
    for name, modules in owned.items():
        parameters = [torch.nn.Parameter(x.clone()) for module in modules for x in data[module].values()]
        adam = torch.optim.Adam(parameters, 1.0)
        adam.load_state_dict(data[name])
        assert adam.state[parameters[0]]["step"] == 2
        assert all(adam.state[p]["exp_avg"].shape == p.shape for p in parameters)
        assert all(adam.state[p]["exp_avg_sq"].min() >= 0 for p in parameters)
        assert any(adam.state[p]["exp_avg"].abs().max() > 0 for p in parameters)


def test_everything_comes_back_and_the_next_update_is_the_same(saved):
    """T10: the critic, all optimizers, counters and random numbers."""
    dreamer, folder = saved
    again = cases.dreamer(seed=9)
    again.restore_checkpoint(folder / "model.pt")
    for old, new in zip(jax.tree.leaves(dreamer.state), jax.tree.leaves(again.state)):
        raw = [np.asarray(jax.random.key_data(x)) if "key" in str(x.dtype) else np.asarray(x) for x in (old, new)]
        np.testing.assert_array_equal(*raw)
    batch = dreamer.data_buffer.sample_batch()
    assert dreamer.train_on(batch) == again.train_on(batch)
    dreamer.restore_checkpoint(folder / "model.pt")


def test_a_checkpoint_without_critic_leaves_it_and_says_so(saved, tmp_path, caplog):
    _, folder = saved
    data = torch.load(folder / "model.pt", weights_only=True)
    for name in ("value_model", "jaxdreamer"):
        del data[name]
    torch.save(data, tmp_path / "old.pt")
    fresh = cases.dreamer(seed=5)
    before = fresh.value_model.state_dict()
    fresh.restore_checkpoint(tmp_path / "old.pt")
    assert all(torch.equal(before[k], v) for k, v in fresh.value_model.state_dict().items())
    assert torch.equal(fresh.rssm.state_dict()["rnn.bias_hh"], data["rssm"]["rnn.bias_hh"])
    assert "the value model, which torchwm does not save, is absent" in caplog.text


class Malicious:
    def __reduce__(self):
        return (print, ("I was run",))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_malicious_file_is_refused_and_not_run(tmp_path, capsys, kind):
    path = tmp_path / "evil.pt"
    data = {"rssm": {}, "actor": Malicious()}
    if kind == "torch":
        torch.save(data, path)
    else:
        path.write_bytes(pickle.dumps(data))
    with pytest.raises(CheckpointError, match=r"evil\.pt is (refused: it holds more than tensors|truncated)"):
        cases.dreamer().restore_checkpoint(path)
    assert "I was run" not in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(saved, tmp_path, share):
    content = (saved[1] / "model.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.pt is (truncated|refused)"):
        read(path)


def test_other_sizes_are_told_by_file_key_and_shapes(saved):
    other = cases.dreamer(deter_size=12)
    with pytest.raises(CheckpointError, match=r"model\.pt: rssm\.rnn\.weight_ih has shape \(48, 16\).*have \(36, 12\)"):
        other.restore_checkpoint(saved[1] / "model.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["actor"].pop("action_model.0.bias"), r"bad\.pt: actor\.action_model\.0\.bias is missing"),
        (lambda d: d["actor"].update(extra=torch.zeros(1)), r"actor\.extra is not a parameter"),
        (lambda d: d["actor_optimizer"]["state"].pop(3), "actor_optimizer has no state of parameter 3"),
        (lambda d: d.pop("rssm"), "is no Dreamer checkpoint"),
    ],
)
def test_what_does_not_fit_is_named(saved, tmp_path, change, message):
    data = torch.load(saved[1] / "model.pt", weights_only=True)
    change(data)
    torch.save(data, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        cases.dreamer().restore_checkpoint(tmp_path / "bad.pt")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        cases.dreamer().restore_checkpoint(tmp_path / "absent.pt")


# ---- from_pretrained ----------------------------------------------------------------------------------------------------


def test_candidates_in_their_order(saved, tmp_path):
    content = (saved[1] / "model.pt").read_bytes()
    (tmp_path / "zzz.pth").write_bytes(content)
    loaded = Dreamer.from_pretrained(tmp_path, seed=4)
    assert loaded.args.seed == 4 and loaded.args.deter_size == 16
    for name in ("aaa.pt", "ckpt.pt", "checkpoint.pt", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"")  # found first, and damaged
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            Dreamer.from_pretrained(tmp_path)
    assert Dreamer.from_pretrained(tmp_path, checkpoint_filename="zzz.pth").obs_shape == cases.IMAGE


@pytest.mark.parametrize("place", ["empty", "absent"])
def test_nothing_found(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Could not find a Dreamer checkpoint for "):
        Dreamer.from_pretrained(tmp_path / place)


def test_nothing_found_on_the_hub(monkeypatch, without):
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_, **__):
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"Could not find .* 'owner/name': .* hub gave none: no connection"):
        Dreamer.from_pretrained("owner/name")
    without("huggingface_hub")
    with pytest.raises(FileNotFoundError, match=r"Could not find .* 'owner/name': .* pip install huggingface_hub"):
        Dreamer.from_pretrained("owner/name")


def test_the_configuration_is_the_files_or_the_yamls(saved, tmp_path):
    data = torch.load(saved[1] / "model.pt", weights_only=True)
    data["config"]["of_another_version"] = 3
    torch.save(data, tmp_path / "model.pt")
    assert Dreamer.from_pretrained(tmp_path).args.deter_size == 16
    del data["config"]
    torch.save(data, tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match="carries no configuration"):
        Dreamer.from_pretrained(tmp_path)
    cases.config(env="from-yaml").to_yaml(tmp_path / "config.yaml")
    assert Dreamer.from_pretrained(tmp_path).args.env == "from-yaml"
    assert Dreamer.from_pretrained(tmp_path, config=cases.config(env="given")).args.env == "given"


def test_without_torch_the_extra_is_named(saved, without):
    without("torch")
    with pytest.raises(MissingExtra, match=r"needs PyTorch\npip install 'jaxdreamer\[torch\]'"):
        saved[0].save("nowhere.pt")
    assert arrays.require_torch.__doc__
