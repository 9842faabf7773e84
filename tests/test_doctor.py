"""The doctor names what works and, for what does not, what to install."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from jaxdreamer import cli, doctor, families
from jaxdreamer.envs.host.drawing import gl
from jaxdreamer.errors import MissingExtra


def test_the_whole_report(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"jax {jax.__version__}" in said and "JAX devices: " in said and "mujoco 3." in said
    assert "drawing: egl, " in said and "render_quality" in said
    for name in ("gym", "dmc", "mujoco", "robotics"):
        assert f"\n  {name}: works (" in said and "pixels 64x64x3" in said
    assert "\n  gym: works (ALE/Pong-v5: image; pixels 64x64x1)" in said
    assert "\n  crafter: works (CrafterReward-v1: image; pixels 64x64x3)" in said
    assert "\n  brax: works (fast: " in said and "\n  unity_mlagents: " in said


def test_what_does_not_work(monkeypatch, capsys):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "probe", lambda backend: gl.Probe(backend, "", f"no {backend}"))
    assert doctor._drawing()[:3] == [
        "drawing: nothing works here without a window",
        "  egl: no egl",
        "  osmesa: no osmesa",
    ]
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert "MUJOCO_GL=egl is set, which does not work" in doctor._drawing()[0]
    monkeypatch.setattr(gl, "probe", lambda backend: gl.Probe(backend, "NVIDIA H200", ""))
    assert "egl, MUJOCO_GL=egl is set; drawing on a GPU by NVIDIA H200, render_quality full" in doctor._drawing()[0]
    misspelt = dataclasses.replace(families.find("gym"), sample="Pendulumm-v1")
    monkeypatch.setattr(families, "FAMILIES", {})
    monkeypatch.setattr(families, "_registered", {"gym": misspelt})
    assert "did you mean Pendulum" in doctor.try_backend(misspelt, "state")[0][1]
    assert doctor._backends()[1] == "  gym: does not work"
    assert doctor.try_backend(misspelt, "state", seconds=0.01)[0][1] == "no answer within 0.01 s"


def test_without_mujoco_no_driver_is_blamed(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "find_spec", lambda name: None)
    monkeypatch.setattr(gl, "probe", lambda backend: pytest.fail("a driver was asked"))
    (line,) = doctor._drawing()
    assert "pip install 'jaxdreamer[mujoco]'" in line and "egl" not in line.lower()
    with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[mujoco\]'"):
        gl.prepare()
    with gl.settled():  # whoever imports what looks for a driver is told by that import what is missing
        pass
