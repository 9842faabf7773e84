"""A run's replay as files for others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jaxdreamer import __version__
from jaxdreamer.data import minari_io, npz
from jaxdreamer.data.episodes import DataError
from jaxdreamer.data.stored import open_run, stored_episodes
from jaxdreamer.envs.host.spaces import read_spaces
from jaxdreamer.errors import ConfigError
from jaxdreamer.files import at_home, read_json
from jaxdreamer.saving import remove, storing, write_json

Kind = Literal["npz", "minari"]


class Exported(NamedTuple):
    """What :func:`export_data` wrote."""

    folder: Path
    episodes: int
    entries: int


def export_data(
    run: str | os.PathLike[str], to: Kind = "npz", folder: str | os.PathLike[str] | None = None
) -> Exported:
    """Write the replay of a run's newest checkpoint as episodes.

    Args:
        run: the run's folder.
        to: ``"npz"``, a file of arrays for each episode, or ``"minari"``, a dataset.
        folder: where to; ``data`` in the run's folder by default, for Minari ``data-v0``. It must be empty, or not there.

    Raises:
        ConfigError: there is no run, the folder is in use, or another kind. MissingExtra: Minari is not installed.
        DataError: no episode is stored.
    """
    if to not in get_args(Kind):
        raise ConfigError(f"to must be one of {', '.join(get_args(Kind))}, found {to!r}")
    rundir, config, spec = open_run(run)
    target = (
        at_home(folder) if folder is not None else rundir.path / {"npz": "data", "minari": "data-v0"}[to]
    ).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} is in use: choose another --out, or delete it")
    episodes = stored_episodes(rundir, config, spec)
    try:
        with storing(target):
            if to == "npz":
                count, entries = npz.write(target, episodes)
                if count:
                    write_json(target / npz.SPEC, read_json(rundir.spec))
            else:
                about = {
                    "algorithm_name": config.preset,
                    "description": f"the replay of a run on {config.env.task}, written by jaxdreamer {__version__}",
                }
                space = read_spaces(rundir.spec).get("action")
                count, entries = minari_io.write(target, episodes, spec, space, config.env.action_bound, about)
        if not count:
            raise DataError(f"{rundir.path}: its replay holds no episode with a step yet; train it longer")
    except BaseException:
        if target.exists():  # half of it would be taken for all
            remove(target)
        raise
    return Exported(target, count, entries)
