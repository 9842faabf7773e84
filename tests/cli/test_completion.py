"""A shell completes what the command line knows."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from jaxdreamer import cli


@pytest.mark.skipif(not shutil.which("bash"), reason="it is bash's")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jaxdreamer", "tr"], {"train"}),
        (["jaxdreamer", "evaluate", "--s"], {"--seed", "--sample"}),
        (["jaxdreamer", "train", "--model.deter"], {"--model.deter-size"}),
        (["jaxdreamer", "train", "--preset", "dreamer_v3_a"], {"dreamer_v3_atari", "dreamer_v3_atari100k"}),
        (["jaxdreamer", "report", "--model.deter"], set()),
    ],
)
def test_bash_completes(words, expected, capsys):
    assert cli.main(["completion"]) == 0
    script = capsys.readouterr().out
    ask = (
        f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _jaxdreamer; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected and done.stderr == ""
