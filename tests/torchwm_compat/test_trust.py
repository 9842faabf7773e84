"""A pretrained agent of somebody else: nothing that its stored configuration names runs before it was allowed."""

import os
import sys
import zipfile

import pytest

from jaxdreamer import ConfigError, Untrusted
from torchwm_compat.agent.dreamer import DreamerAgent
from torchwm_compat.agent.logger import Logger
from torchwm_compat.config.settings import DreamerConfig
from torchwm_compat.files import checkpoint
from torchwm_compat.files.checkpoint import CheckpointError

torch = pytest.importorskip("torch")
HOSTILE = {
    "env": {"env_backend": "gym", "env": "evil_sender:Foo-v0"},
    "instance": {"env_backend": "gym", "env": "evil_sender:Foo-v0", "env_instance": "evil_sender:Foo-v0"},
    "mujoco id": {"env_backend": "mujoco", "env": "evil_sender:Foo-v0"},
    "binary model": {"env_backend": "mujoco", "mujoco_binary_path": "evil.bin"},
    "player": {"env_backend": "unity_mlagents", "unity_file_name": "./evil"},
    "python": {"env_backend": "unity_mlagents", "unity_file_name": "./evil", "unity_python": "./evil"},
}


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """A folder with a checkpoint, as a stranger may send it, and a file that appears where anything of it runs."""
    ran = tmp_path / "ran"
    (tmp_path / "evil_sender.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sent"
    folder.mkdir()
    yield folder, ran
    sys.modules.pop("evil_sender", None)


@pytest.mark.parametrize("inside", [True, False], ids=["in the checkpoint", "in the YAML file beside it"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_stored_configuration_asks_first(sent, name, inside):
    folder, ran = sent
    stored = HOSTILE[name] | {"log_file": "../log", "data_dir": "/", "jsonl_filename": "../x", "video_format": "../gif"}
    torch.save({"rssm": {}, **({"config": stored} if inside else {})}, folder / "model.pt")
    if not inside:
        DreamerConfig(**{key: value for key, value in stored.items() if key != "env_instance"}).to_yaml(
            folder / "config.yaml"
        )
    with pytest.raises(Untrusted, match=r"model\.pt would .*(evil|Evil).*trust=True"):
        DreamerAgent.from_pretrained(folder)
    assert not ran.exists() and sorted(path.name for path in folder.iterdir()) == ["config.yaml", "model.pt"][inside:]


def test_trust_or_the_users_own_words_allow_it(sent):
    folder, ran = sent
    torch.save({"rssm": {}, "config": HOSTILE["env"]}, folder / "model.pt")
    for allowed in ({"trust": True}, {"env": "evil_sender:Foo-v0"}, {"config": HOSTILE["env"]}):
        with pytest.raises(Exception, match="Foo"):  # the module was imported; it registers no such environment
            DreamerAgent.from_pretrained(folder, **allowed)
        assert ran.exists()
        ran.unlink()
        sys.modules.pop("evil_sender")


def test_what_the_program_named_itself_is_not_asked_about_again(sent):
    folder, ran = sent
    own = {"env_backend": "gym", "env": "evil_sender:Own-v0"}
    torch.save({"rssm": {}, "config": own}, folder / "model.pt")
    with pytest.raises(Untrusted):
        DreamerAgent.from_pretrained(folder)
    for make in (lambda: DreamerAgent(DreamerConfig(**own)), lambda: DreamerAgent.from_pretrained(folder)):
        with pytest.raises(Exception, match="Own"):  # the module was imported; it registers no such environment
            make()
        assert ran.exists()
        ran.unlink()
        sys.modules.pop("evil_sender")


@pytest.mark.parametrize(
    "setting", [{"jsonl_filename": "../x"}, {"jsonl_filename": "/x"}, {"video_format": "../x.gif"}]
)
def test_a_file_named_by_settings_stays_in_the_folder(tmp_path, setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Logger(tmp_path / "run", **setting)


def test_a_strangers_torch_file_neither_hangs_nor_fills_the_memory(tmp_path):
    pytest.importorskip("torch")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "device.pt").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(CheckpointError, match=r"is no ordinary file"):
            checkpoint.read(tmp_path / f"{name}.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(CheckpointError, match=r"refused: it would unpack to 10,000,000 bytes"):
        checkpoint.read(tmp_path / "bomb.pt")
