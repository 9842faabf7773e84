"""Finding a pretrained agent's files: in a folder, by a file's path, or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdreamer import EnvConfig
from jaxdreamer import refuse_untrusted as jaxdreamer_refuses
from torchwm_compat.config import mapping
from torchwm_compat.config.settings import DreamerConfig, as_config, override
from torchwm_compat.files import checkpoint

CANDIDATES = ("model.pt", "pytorch_model.bin", "checkpoint.pt", "ckpt.pt")
PATTERNS = ("*.pt", "*.pth", "*.bin")


# Fields of a stored configuration that concern its own run only: how it began, where it wrote, and live objects.
THEIRS = ("restore", "checkpoint_path", "env_instance", "log_dir", "data_dir", "log_file", "jsonl_filename", "enable_wandb",
          "wandb_project", "wandb_entity", "video_format")  # fmt: skip


class Found(NamedTuple):
    """The two files of a pretrained agent."""

    checkpoint: Path
    config: Path | None  # YAML, where there is any


def find(
    path: Any,
    checkpoint_filename: str | None = None,
    config_filename: str = "config.yaml",
    *,
    repo_type: str | None = None,
    revision: str | None = None,
) -> Found:
    """The checkpoint and the configuration in a folder, beside a file, or in a hub repository ``owner/name``.

    Raises:
        FileNotFoundError: there is no checkpoint. ImportError: a repository is named and huggingface_hub is not installed.
    """
    place = Path(path).expanduser()
    if place.is_file():
        found: Path | None = place
        folder = place.parent
    else:
        folder = place if place.is_dir() else _from_hub(str(path), repo_type, revision)
        names = (checkpoint_filename,) if checkpoint_filename else CANDIDATES
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None and not checkpoint_filename:
            found = next((file for pattern in PATTERNS for file in sorted(folder.glob(pattern))), None)
    if found is None:
        wanted = checkpoint_filename or f"one of {', '.join(CANDIDATES)}, or any {' '.join(PATTERNS)}"
        raise FileNotFoundError(
            f"Could not find a Dreamer checkpoint for {str(path)!r}: looked in {folder} for {wanted}"
        )
    config = folder / config_filename
    return Found(found, config if config.is_file() else None)


def load(found: Found, config: Any, overrides: Mapping[str, Any]) -> tuple[DreamerConfig, dict[str, Any]]:
    """(configuration, checkpoint): ``config`` where given, else the checkpoint's own, else the YAML file's."""
    data = checkpoint.read(found.checkpoint)
    if config is not None:
        args = as_config(config)
    else:
        stored = checkpoint.config_of(data)
        if stored is None and found.config is None:
            raise FileNotFoundError(
                f"{found.checkpoint} carries no configuration, and there is no YAML file beside it: pass config=..."
            )
        args = DreamerConfig.from_yaml(found.config) if stored is None else stored
        for name in THEIRS:
            setattr(args, name, getattr(DreamerConfig(), name))
    return override(args, overrides), data


# Environments that this program itself asked for: a checkpoint may name them again.
_asked_for: set[EnvConfig] = set()


def remember(args: DreamerConfig) -> None:
    """Note that this program asked for the environment, so that its own checkpoints load without ``trust``."""
    _asked_for.add(_environment(args))


def refuse_untrusted(found: Found, args: DreamerConfig, overrides: Mapping[str, Any]) -> None:
    """jaxdreamer's Untrusted where the stored environment would run a program that nobody here named.

    Named are those among ``overrides``, and those of agents that this program has made before.
    """
    config = _environment(args)
    if config in _asked_for:
        return
    own = {f"env.{name}" for name in ("unity_file_name", "unity_python") if name in overrides}
    if {"env", "env_instance", *(name for name in overrides if name.startswith("mujoco_"))} & overrides.keys():
        own.add("env.id")
    jaxdreamer_refuses(config, found.checkpoint, own)


def _environment(args: DreamerConfig) -> EnvConfig:
    """The settings of a configuration that may name a program."""
    named, backend = args.mujoco_binary_path, mapping.backend(args)
    unity = {"unity_file_name": str(args.unity_file_name or ""), "unity_python": str(args.unity_python or "")}
    return EnvConfig(
        backend=backend,
        id=str(Path(named).with_suffix(".mjb")) if named else mapping.task(args),
        options=unity if backend == "unity_mlagents" else None,
    )


def _from_hub(repository: str, repo_type: str | None, revision: str | None) -> Path:
    missing = FileNotFoundError(
        f"Could not find a Dreamer checkpoint for {repository!r}: there is no such file or folder"
    )
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise missing
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise FileNotFoundError(
            f"{missing}; if it names a Hugging Face repository: pip install huggingface_hub"
        ) from None
    patterns = [*CANDIDATES, *PATTERNS, "*.yaml", "*.yml"]
    try:
        return Path(snapshot_download(repository, repo_type=repo_type, revision=revision, allow_patterns=patterns))
    except (OSError, HFValidationError) as error:  # no network, no such repository, no such name
        raise FileNotFoundError(f"{missing}, and the Hugging Face hub gave none: {error}") from error
