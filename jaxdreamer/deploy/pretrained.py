"""A trained agent as a small folder of its own: settings, spec, weights and a model card; on the Hugging Face hub, too.

The folder is laid out as a run's is, so that whatever reads a run's checkpoints reads it. Optimizers, replay and metrics
stay behind. Reading it runs nothing that it names: it is text and arrays.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxdreamer import __version__
from jaxdreamer import config as configs
from jaxdreamer.config import Config
from jaxdreamer.errors import ConfigError, JaxdreamerError, import_extra
from jaxdreamer.files import at_home, read_json
from jaxdreamer.record import checkpoint, metrics, sessions
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import checkpoints_of, figures_of
from jaxdreamer.saving import remove, write_json, write_text

if TYPE_CHECKING:
    from jaxdreamer.deploy.agent import Agent

__all__ = ["HubError", "fetched", "push", "save"]

_CARD = "README.md"
_FILES = [_CARD, "config.json", "spec.json", "checkpoints/*"]
_SCORES = ("return", "return_std", "return_min", "return_max", "episodes")
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class HubError(JaxdreamerError, OSError):
    """The Hugging Face hub could not be reached, or refused; the message says what it answered."""


def save(agent: Agent, folder: str | os.PathLike[str]) -> Path:
    """See :meth:`jaxdreamer.Agent.save_pretrained`."""
    source, target = _origin(agent), RunDir(at_home(folder))
    if not _is_free(target):
        raise ConfigError(
            f"{target.path} holds something else than a saved agent: choose a new folder, or an empty one"
        )
    algorithm, best = agent.algorithm, agent.best
    learned, host, step = checkpoint.restore_learned(checkpoints_of(source, best), algorithm, agent.step)
    figures = figures_of(host) or _figures(agent, source, host)
    config = configs.replace(agent.config, {"run.start": "", "run.start_parts": "all"})  # a path on this machine
    if target.checkpoints.is_dir():
        remove(target.checkpoints)
    write_json(target.spec, read_json(source.spec))
    kept = {"config": configs.to_dict(config), "figures": figures}
    checkpoint.save(target.checkpoints, step, {"train": learned}, kept, keep=1)
    write_text(target.path / _CARD, card(agent, config, figures))
    write_json(target.config, kept["config"])
    return target.path


def push(agent: Agent, name: str, *, private: bool | None, token: str | None) -> str:
    """See :meth:`jaxdreamer.Agent.push_to_hub`."""
    _check_name(name)
    hub = import_extra("huggingface_hub", "hub", f"uploading {name}")
    with tempfile.TemporaryDirectory() as folder, _naming(name, "did not take"):
        save(agent, folder)
        api = hub.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=_FILES,
            delete_patterns=["checkpoints/*"],
            commit_message=f"{agent.config.env.task}, trained by jaxdreamer {__version__}",
        )
    return str(done.commit_url)


def fetched(place: str | os.PathLike[str], revision: str | None = None) -> str | os.PathLike[str]:
    """``place`` itself, where it is a folder here; the copy of a hub's repository that it names as ``owner/name``.

    A name whose first part is a folder here is a folder too, one that is not there. With a ``revision`` it is the hub's.
    """
    here = at_home(place)
    on_hub = isinstance(place, str) and _REPOSITORY.fullmatch(place) and not (here.exists() or here.parent.exists())
    if revision is not None:
        _check_name(place)
    elif not on_hub:
        return place
    hub = import_extra("huggingface_hub", "hub", f"{place} is no folder here, and reading it from the Hugging Face hub")
    with _naming(str(place), "gave no"):
        return Path(hub.snapshot_download(place, revision=revision, allow_patterns=_FILES))


def _origin(agent: Agent) -> RunDir:
    if agent.origin is None:
        raise ConfigError(
            "this agent was made of parameters at hand, without the critic and the figures of a run: save one that "
            "load_agent gave"
        )
    return RunDir(agent.origin)


def _is_free(target: RunDir) -> bool:
    """Whether an agent can be written there: nothing is, or an agent that it replaces."""
    if not target.path.exists():
        return True
    if not target.path.is_dir():
        return False
    inside = {path.name for path in target.path.iterdir()}
    return not inside or any(figures_of(host) is not None for host in checkpoint.hosts(target.checkpoints).values())


def _check_name(name: Any) -> None:
    if not (isinstance(name, str) and _REPOSITORY.fullmatch(name)):
        raise ConfigError(f"a repository on the Hugging Face hub is named owner/name, found {name!r}")


@contextmanager
def _naming(name: str, verb: str) -> Iterator[None]:
    """HubError, with what to do, for what the hub's library raises: of its own, of the network's, of the transport's."""
    from huggingface_hub import errors

    kinds: tuple[Any, ...] = (OSError, errors.HFValidationError, *errors.HfHubHTTPError.__bases__)
    try:
        yield
    except JaxdreamerError:
        raise
    except kinds as error:
        said = " ".join(str(error).split())[:300]
        raise HubError(
            f"the Hugging Face hub {verb} {name} ({type(error).__name__}: {said}): look at the name and the network; what "
            "is private, and every upload, needs a login (hf auth login)"
        ) from error


# ---- the model card ------------------------------------------------------------------------------------------------


def _figures(agent: Agent, source: RunDir, host: dict[str, Any]) -> dict[str, Any]:
    """What is known of how well an agent does, and how it came about; of what is not known there is nothing."""
    tally = host.get("tally", {})
    frames = (agent.step or 0) * agent.config.env.action_repeat  # entries, of which resets are no frames
    records = (
        [one for one in metrics.read(source.metrics) if one["env_frames"] <= frames] if source.metrics.exists() else []
    )
    evaluations = [one for one in records if one.get("eval/return") is not None]
    found: dict[str, Any] = {"updates": tally["updates"]} if "updates" in tally else {}
    if evaluations:
        newest = evaluations[-1]
        if agent.best:  # the evaluation that chose it
            newest = max(evaluations, key=lambda one: one["eval/return"])
        found |= {name: newest[f"eval/{name}"] for name in _SCORES if newest.get(f"eval/{name}") is not None}
        found |= {"frames": newest["env_frames"], "updates": newest["updates"]}
    if begun := sessions.read(source.sessions):
        last: dict[str, Any] = next((one for one in reversed(begun) if "device" in one), {})
        found |= {"device": last.get("device"), "versions": last.get("versions", {})}
        found["seconds"] = round(sessions.wall_seconds(begun, records), 1)
    return found


def card(agent: Agent, config: Config, figures: dict[str, Any]) -> str:
    """The README of an agent: what it is, how well it does, how it is used. Its head is what the hub reads."""
    import yaml

    task = config.env.task
    head: dict[str, Any] = {
        "library_name": "jaxdreamer",
        "tags": ["reinforcement-learning", "world-model", "dreamer", task],
    }
    rows = [
        ("task", f"{task} (`env.backend={config.env.backend}`)"),
        ("preset", f"`{config.preset}`, algorithm `{config.algorithm}`, seed {config.seed}"),
        ("parameters", f"{sum(leaf.size for leaf in jax.tree.leaves(agent.params)):,} that act"),
    ]
    if "return" in figures:
        spread = f" +- {figures['return_std']:.1f}" if "return_std" in figures else ""
        episodes = f"{figures.get('episodes', 1):.0f} episodes without exploration"
        rows.append(("return", f"{figures['return']:.1f}{spread} over {episodes}"))
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": task, "type": task},
            "metrics": [{"type": "mean_reward", "name": "mean_reward", "value": f"{figures['return']:.2f}{spread}"}],
        }
        head["model-index"] = [{"name": f"{task}-{config.preset}", "results": [result]}]
    if "frames" in figures:
        rows.append(("trained for", f"{figures['frames']:,} frames, {figures['updates']:,} updates"))
    if figures.get("device"):
        versions = ", ".join(f"{name} {number}" for name, number in figures.get("versions", {}).items())
        rows.append(("trained on", f"{figures['device']}; {versions}"))
    spaces = [(f"observation `{key}`", f"{item.dtype} {list(item.shape)}") for key, item in agent.spec.obs.items()]
    spaces.append(("action", ", ".join(f"{part.kind} {part.size}" for part in agent.spec.action.parts)))
    lines = [f"| {name} | {value} |" for name, value in [*rows, *spaces]]
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# {task}, {config.preset}\n\nAn agent of jaxdreamer with its "
        "world model: settings, spaces and weights.\n\n| | |\n|---|---|\n" + "\n".join(lines) + "\n\n"
        "```python\nimport jaxdreamer\n\nagent = jaxdreamer.load_agent(PLACE)  # this folder, or owner/name on the hub\n"
        "action = agent.act(obs, first=True)  # what the environment returned -> what it takes\n"
        "env = jaxdreamer.DreamEnv(agent, start=obs)  # its world model as an environment\n```\n"
    )
