"""The rules of the house, read off the source: who may import whom, and what stays in its room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxdreamer"
FLOORS = {
    "errors": -3, "families": -3, "files": -2, "memory": -2, "saving": -1, "values": -1,
    "types": 0, "config": 0, "devices": 1, "__init__": 6, "cli": 6, "__main__": 7,
    "ops": 1, "nets": 2, "agent": 3, "replay": 3, "envs": 3, "record": 3, "data": 4, "train": 5, "deploy": 5, "doctor": 5,
}  # fmt: skip
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Which rooms a third-party library may be imported in; the rest of the house sees it through them.
OWNED = {
    "flax": {"nets"},
    "optax": {"agent"},
    "tensorboardX": {"record"},
    "wandb": {"record"},
    "minari": {"data"},
    "imageio": {"record"},
    "matplotlib": {"record"},
}
NEVER = {"torch", "tensorflow", "distrax", "rlax", "tensorflow_probability", "gym"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path, running: bool = False) -> list[str]:
    """Every module named by an import anywhere in the file, with the names taken from packages of our own.

    ``running`` leaves out what only a type checker imports.
    """
    tree = ast.parse(path.read_text())
    if running:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            if node.module == "jaxdreamer":
                found += [f"jaxdreamer.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_floors(path):
    here = room(path)
    assert here in FLOORS, f"{here} is no room of the house"
    for name in imports(path):
        if not name.startswith("jaxdreamer."):
            continue
        there = name.split(".")[1]
        if there == here or there not in FLOORS or here == "__init__":
            continue
        assert FLOORS[there] < FLOORS[here], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path):
    for name in imports(path):
        library = name.split(".")[0]
        assert library not in NEVER, f"{path.name} imports {name}"
        if library in OWNED:
            assert room(path) in OWNED[library], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_jit_only_where_programs_are_assembled(path):
    if room(path) in ("train", "deploy") or path.name == "hosted.py":  # a step from the host is a program of its own
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("jax", "jit"), ("jax", "pmap")}, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_importing_a_module_only_defines(path):
    """Nothing is printed, read from the environment or set by an import: no bare calls at module level."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            allowed = (called == "sys.exit" and path.name == "__main__.py") or called.endswith(".defvjp")
            # gymnasium.make("module:Name") imports a module for what it registers.
            allowed = allowed or (called == "register_dream" and path.name == "dream_env.py")
            assert allowed or called.endswith(".defjvp"), f"{path.name}:{node.lineno} calls {called} when imported"


@pytest.mark.parametrize("package", ["jaxdreamer", "torchwm_compat"])
def test_files_and_functions_fit_on_a_screen_or_few(package):
    """At most 400 lines a file and 60 a function, docstrings included: what is longer does two things."""
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{path.name} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{path.name}: {node.name} has {lines} lines"


def test_one_module_knows_other_processes():
    for path in SOURCES:
        if path.name != "crew.py":
            assert not re.search(r"jax\.distributed|jax\._src|multihost_utils", path.read_text()), path.name


def test_no_grab_bags():
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "misc", "helpers", "common")]


def test_config_and_environments_do_not_know_jax():
    """Environment workers import them, and must not start a jax of their own."""
    on_device = PACKAGE / "envs" / "device"
    checked = [path for path in PACKAGE.rglob("envs/**/*.py") if on_device not in path.parents]
    assert len(checked) > 25
    for path in [*checked, *PACKAGE.glob("config/*.py"), PACKAGE / "types.py"]:
        assert not {"jax", "flax"} & {name.split(".")[0] for name in imports(path, running=True)}, path.name


def test_the_facade_sees_public_names_only():
    """torchwm_compat is built on what jaxdreamer offers to everybody; torch is imported where it is used, not before."""
    import jaxdreamer

    for path in sorted((ROOT / "torchwm_compat").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("jaxdreamer.")], (
                    f"{path.name}:{node.lineno}"
                )
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jaxdreamer":
                assert node.module == "jaxdreamer", f"{path.name}:{node.lineno} imports from {node.module}"
                private = [alias.name for alias in node.names if alias.name not in jaxdreamer.__all__]
                assert not private, f"{path.name}:{node.lineno} imports {private}, which are no public names"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxdreamer":
                assert node.attr in jaxdreamer.__all__, f"{path.name}:{node.lineno} uses jaxdreamer.{node.attr}"
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        named = {name.partition(".")[0] for node in top for name in imported(node)}
        assert not named & {"torch", "onnx", "flax", "optax"}, f"{path.name} imports {named} at once"


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def test_jaxdreamer_does_not_know_the_facade():
    assert not [path for path in SOURCES if any(name.startswith("torchwm") for name in imports(path))]


def test_the_fast_lane_names_tests_that_exist():
    named = re.findall(r"tests/[\w/.]+", (ROOT / ".ci" / "run").read_text())
    assert len(named) > 10 and not [name for name in named if not (ROOT / name).exists()]
