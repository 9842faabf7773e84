"""What a user names and what it finds: a module, a function, or a sentence that says why not."""

from __future__ import annotations

import pytest

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import make_env
from jaxdreamer.envs.named import imported

MODULES = {
    "misspelt": "def (:\n",
    "failing": "import os\n\nraise RuntimeError('no licence')\n",
    "leaving": "raise SystemExit(3)\n",
    "lacking": "import a_library_that_is_not_there\n",
    "plain": "number = 3\n\ndef reward(*_):\n    return 1.0\n",
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, text in MODULES.items():
        (tmp_path / f"jd_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jd_misspelt:f", r"the module 'jd_misspelt' cannot be imported: SyntaxError: .*jd_misspelt.py, line 1"),
        ("jd_failing:f", r"RuntimeError: no licence \(.*jd_failing.py, line 3\)"),
        ("jd_leaving:f", r"SystemExit: 3 \(.*jd_leaving.py, line 1\)"),
        (
            "jd_lacking:f",
            r"ModuleNotFoundError: No module named 'a_library_that_is_not_there' \(.*jd_lacking.py, line 1",
        ),
        ("jd_gone:f", r"there is no module 'jd_gone'.* is not on Python's path: start from the folder that holds it"),
        (".relative:f", "the module '.relative' cannot be imported: TypeError"),
        ("jd_plain.py:f", "found 'jd_plain.py', which is a file's: give 'jd_plain', and start from the folder"),
        ("./tasks/jd_mine.py:f", r"found './tasks/jd_mine.py', which is a file's: give 'tasks.jd_mine'"),
        ("jd_plain:rewrad", r"jd_plain.py has no 'rewrad' \(did you mean reward\?\)"),
        ("jd_plain:number", "is not a function but int"),
        ("jd_plain", "expected module:function"),
    ],
)
def test_why_a_name_leads_nowhere(text, says, modules, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    with pytest.raises(ConfigError, match=f"^env.reward_fn: .*{says}"):
        imported("env.reward_fn", text)
    if ":" in text and "plain" not in text:
        with pytest.raises(ConfigError, match=f"^env.id: .*{says}"):
            make_env(EnvConfig(id=text.replace(":f", ":Task-v0")))


def test_a_function_is_found(modules):
    assert imported("env.reward_fn", "jd_plain:reward")(None) == 1.0
