"""torchwm's paths as aliases, programs run unchanged, and the factories."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import torchwm_compat
from jaxdreamer import ConfigError
from tests.torchwm_compat import cases
from torchwm_compat import __main__, api
from torchwm_compat.aliases import MODULES
from torchwm_compat.config.settings import DreamerConfig

ROOT = Path(torchwm_compat.__file__).resolve().parent.parent
PROMISED = tuple(
    """torchwm torchwm.api world_models world_models.api world_models.models world_models.models.dreamer
world_models.models.dreamer_v1 world_models.models.dreamer_v2 world_models.models.dreamer_rssm
world_models.configs world_models.configs.dreamer_config world_models.envs world_models.envs.gym_env
world_models.envs.dmc world_models.envs.mujoco_env world_models.envs.robotics_env world_models.envs.brax_env
world_models.envs.unity_env world_models.envs.wrappers world_models.memory world_models.memory.dreamer_memory
world_models.vision world_models.vision.dreamer_encoder world_models.vision.dreamer_decoder
world_models.utils.dreamer_utils world_models.export world_models.envs.world_model_env
world_models.training world_models.training.train_dreamer""".split()  # noqa: SIM905
)
NAMES = tuple(
    """DreamerAgent DreamerConfig Dreamer DreamerV1 DreamerV2 create_config create_model list_models get_model_spec
list_env_backends get_env_backend_spec list_envs make_env make_mujoco_env_from_config make_mujoco_env
MuJoCoImageEnv make_gym_env GymImageEnv make_robotics_env list_gymnasium_robotics_envs
register_gymnasium_robotics_envs make_brax_env BraxImageEnv make_unity_mlagents_env UnityMLAgentsEnv
DeepMindControlEnv WorldModelEnv make_world_model_env train_dreamer RSSM
ConvEncoder ConvDecoder DenseDecoder ActionDecoder export_any __version__""".split()  # noqa: SIM905
)


def run(*words, code=0, **files):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def test_importing_is_cheap_and_silent():
    done = run(
        "-W",
        "error",
        "-c",
        "import torchwm_compat, sys; print({'jax', 'torch', 'numpy', 'gymnasium'} & set(sys.modules))",
    )
    assert done.stdout.strip() == "set()" and done.stderr == ""


def test_every_promised_name_is_there():
    for name in NAMES:
        assert getattr(torchwm_compat, name) is not None
        assert name in dir(torchwm_compat)
    assert torchwm_compat.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'JEPAAgent'"):
        torchwm_compat.JEPAAgent  # noqa: B018


def test_torch_is_never_imported_for_nothing():
    names = ", ".join(name for name in NAMES if name != "__version__")
    code = f"from torchwm_compat import {names}; import sys; print('torch' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"


CHECK = """
import importlib, sys
import torchwm_compat
assert torchwm_compat.install() and torchwm_compat.install()
for name in {modules!r}:
    module = importlib.import_module(name)
    assert sys.modules[name] is module
    for public in getattr(module, "__all__", ()):
        assert getattr(module, public) is not None, (name, public)
import torchwm, torchwm.api, world_models.models.dreamer, torchwm_compat.agent.dreamer
assert torchwm.create_config is torchwm.api.create_config and torchwm.__version__ == torchwm_compat.__version__
assert world_models.models.dreamer is torchwm_compat.agent.dreamer  # patched there, patched here
import world_models.export, torchwm_compat.files.export
assert world_models.export is torchwm_compat.files.export
from world_models.models.dreamer import DreamerAgent, make_env, Logger, preprocess_obs
from world_models.configs.dreamer_config import DreamerConfig
from world_models.vision.dreamer_decoder import ConvDecoder, DenseDecoder, ActionDecoder
from world_models.utils.dreamer_utils import FreezeParameters, TwoHotEncoder, compute_return, get_parameters, symexp, symlog
from torchwm.models.dreamer import Dreamer
from torchwm import DreamerAgent as Agent
assert Agent is DreamerAgent
import torchwm_compat.envs.image_env
assert torchwm_compat.envs.image_env.ImageEnv
for other in ("world_models.models.jepa_agent", "torchwm.training.train_jepa", "world_models.configs.iris_config"):
    try:
        importlib.import_module(other)
    except ImportError as error:
        assert "is not part of this project" in str(error), error
    else:
        raise AssertionError(other)
try:
    from world_models.models import JEPAAgent
except ImportError as error:
    print("refused")
"""


def test_the_aliases():
    assert set(PROMISED) <= set(MODULES)
    assert run("-c", CHECK.format(modules=sorted(MODULES))).stdout.strip() == "refused"


def test_the_real_torchwm_is_left_alone():
    code = """
        import sys, types
        sys.modules["torchwm"] = types.ModuleType("torchwm")
        import torchwm_compat
        print(torchwm_compat.install(), len([f for f in sys.meta_path if "torchwm_compat" in type(f).__module__]))
    """
    assert run("-c", textwrap.dedent(code)).stdout.strip() == "False 0"


SCRIPT = """
import sys
from torchwm import DreamerConfig
from helper import WORD
cfg = DreamerConfig()
cfg.env = sys.argv[1]
print(__name__, WORD, cfg.env, sys.argv[0].endswith("script.py"))
"""


def test_a_script_and_a_module_are_run_as_python_would(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("WORD = 'near'")
    assert (
        run("-m", "torchwm_compat", str(tmp_path / "script.py"), "walker-run").stdout
        == "__main__ near walker-run True\n"
    )
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text("import sys, torchwm; print(torchwm.__version__, sys.argv[1:])")
    done = subprocess.run(
        [sys.executable, "-m", "torchwm_compat", "-m", "package", "--x"],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, timeout=300,
    )  # fmt: skip
    assert done.stdout == "0.4.2 ['--x']\n", done.stderr


def test_how_it_is_called(capsys):
    assert __main__.main([]) == 2 and "usage: python -m torchwm_compat SCRIPT" in capsys.readouterr().err
    assert __main__.main(["--help"]) == 0 and "usage" in capsys.readouterr().out
    assert __main__.main(["/no/script.py"]) == 2 and "there is no script '/no/script.py'" in capsys.readouterr().err


# ---- the factories ------------------------------------------------------------------------------------------------------


def test_models_by_name():
    assert api.list_models() == ["dreamer", "dreamer-v1", "dreamer-v2"]
    for alias, name in {
        "Dreamer": "dreamer",
        "dreamer_agent": "dreamer",
        "dreamerv1": "dreamer-v1",
        "DREAMER_V2": "dreamer-v2",
    }.items():
        assert api.get_model_spec(alias).name == name
    with pytest.raises(ValueError, match=r"Unknown model 'nope'\. Available models: dreamer, dreamer-v1, dreamer-v2"):
        api.get_model_spec("nope")
    for other in ("jepa", "iris", "genie-small", "dit", "planet", "diamond", "dreamer-v3"):
        with pytest.raises(ConfigError, match="is not part of this project, which is Dreamer only"):
            api.get_model_spec(other)


def test_backends_by_name():
    assert {"gym", "dmc", "mujoco", "robotics", "brax", "unity", "auto"} == set(api.list_env_backends())
    for alias, name in {"gymnasium": "gym", "mjcf": "mujoco", "unity_mlagents": "unity", "default": "auto"}.items():
        assert api.get_env_backend_spec(alias).name == name
    with pytest.raises(ValueError, match=r"Unknown environment backend 'nope'\. Available: auto, brax"):
        api.get_env_backend_spec("nope")
    with pytest.raises(ConfigError, match="not part of this project"):
        api.get_env_backend_spec("procgen")
    assert "Pendulum-v1" in api.list_envs("dreamer") and set(api.list_envs()) == {"dreamer", "dreamerv1", "dreamerv2"}


def test_configurations_and_models_from_names():
    config = api.create_config("dreamer", env="walker-walk", seed=7)
    assert isinstance(config, DreamerConfig) and (config.env, config.seed) == ("walker-walk", 7)
    with pytest.raises(ValueError, match=r"^Invalid config override\(s\): nope$"):
        api.create_config("dreamer", nope=1)
    made = api.create_model(
        "dreamer-v2", cases.config(), num_categories=4, obs_shape=cases.IMAGE, action_size=2, device="cpu"
    )
    assert type(made).__name__ == "DreamerV2" and made.config.model.classes == 4
    with pytest.raises(ValueError, match="dreamer-v1 needs obs_shape, action_size"):
        api.create_model("dreamer-v1", cases.config())
