"""Checkpoints: config, weights and training state in one file, read without running code from it."""

import errno
import pickle
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch

from minrl.agent import Actor
from minrl.data.task import Task
from minrl.runs.archive import DamagedFileError, check_archive, is_sound
from minrl.runs.folder import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT
from minrl.system.config import build, to_plain
from minrl.system.files import replacing
from minrl.system.messages import one_line
from minrl.system.names import choose

FORMAT = 1
GROUP = "minrl.agents"  # of the entry points
_WIDE, _DEEP = 4096, 1000  # a backbone's width and depth beyond which they are compared with the stored weights


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file: plain values and tensors only."""

    agent: str
    config: dict[str, Any]
    task: dict[str, Any]
    weights: dict[str, Any]  # of the acting agent: averaged ones where averaging is on
    step: int
    training: dict[str, Any]  # optimizer, sampler, random states; empty in a file that only acts
    note: dict[str, Any]  # scores and versions


def save(
    path: Path,
    agent: Actor,
    *,
    step: int,
    weights: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    note: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint to a temporary name and rename it, so that it is complete or absent.

    The one before the last of a run's folder is kept beside it, as `PREVIOUS_CHECKPOINT`.

    Raises:
        OSError: if it cannot be written; the previous file is kept.
    """
    content = {
        "format": FORMAT,
        "agent": agent.name,
        "config": to_plain(agent.config),
        "task": agent.task.to_dict(),
        "weights": agent.state_dict() if weights is None else weights,
        "step": step,
        "training": training or {},
        "note": note or {},
    }
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
            if path.name == LAST_CHECKPOINT and is_sound(path):
                _keep(path, path.with_name(PREVIOUS_CHECKPOINT))
    except RuntimeError as error:  # torch's error for a full disk
        raise OSError(errno.EIO, f"checkpoint cannot be written ({one_line(error)})", str(path)) from error


def _keep(path: Path, kept: Path) -> None:
    """Link a file under a second name, replacing the file of that name; copy it on a file system without links."""
    with replacing(kept) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, temporary)


def read(path: Path | str) -> Checkpoint:
    """Read the checkpoint at `path`, a file or a run's folder (its last checkpoint).

    Only tensors and plain values are accepted: a file with code is refused and none of it runs. If the last checkpoint
    of a folder is damaged and the one before it is not, that one is read, and standard error says so.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return _read(path)
    try:
        return _read(path / LAST_CHECKPOINT)
    except DamagedFileError as error:
        previous = path / PREVIOUS_CHECKPOINT
        if not is_sound(previous):
            raise
        found = _read(previous)
        print(f"minrl: {error}; {previous} of step {found.step} is read instead", file=sys.stderr)
        return found


def _read(file: Path) -> Checkpoint:
    if not file.is_file():
        if file.exists() and not file.is_dir():
            raise ValueError(f"{file} is no regular file; give a run's folder, or a checkpoint in one")
        raise ValueError(f"no checkpoint at {file}; a run's folder holds {LAST_CHECKPOINT} once its first one is saved")
    check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint {file} holds more than tensors and plain values; refused") from error
    except PermissionError:
        raise
    except Exception as error:  # torch raises many types on a malformed archive
        raise DamagedFileError(f"checkpoint {file} is damaged or cut short; nothing was loaded") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or "agent" not in content:
        raise ValueError(f"{file} is no checkpoint of minrl")
    if content["format"] != FORMAT:
        raise ValueError(f"checkpoint {file} has format {content['format']}, this version reads {FORMAT}")
    for name, hint in get_type_hints(Checkpoint).items():
        kind = get_origin(hint) or hint
        if not isinstance(content.get(name), kind):
            raise ValueError(f"checkpoint {file} holds no {name} of type {kind.__name__}")
    return Checkpoint(**{name: content[name] for name in get_type_hints(Checkpoint)})


def load(path: Path | str) -> Actor:
    """Load the agent of a run's folder or checkpoint file onto the CPU, ready to act.

    Raises:
        ValueError: if there is none, it is damaged, or its agent is not installed.
    """
    return restore(read(path), str(path))


def restore(checkpoint: Checkpoint, where: str) -> Actor:
    """Build the agent that a checkpoint describes, with its weights."""
    kind = agent_class(checkpoint.agent)
    config = build(kind.config_class, kind.saved_config(checkpoint.config), f"checkpoint {where}")
    _check_proportions(config, checkpoint.weights, where)
    try:
        agent = kind(config, Task.from_dict(checkpoint.task))
        agent.load_state_dict(checkpoint.weights)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"checkpoint {where} does not fit its own configuration: {reason[-1].strip()}") from error
    return agent.eval()


def _check_proportions(config: Any, weights: dict[str, Any], where: str) -> None:
    """Raise ValueError for a backbone far larger than the weights that the file holds, before it is built."""
    stored = sum(value.numel() for value in weights.values() if isinstance(value, torch.Tensor))
    width, depth = (getattr(config, name, 1) for name in ("width", "depth"))
    # Every block has a norm of `width` scales and maps of `width` squared.
    if (width > _WIDE or depth > _DEEP) and (width * depth > stored or width * width > 64 * stored):
        raise ValueError(
            f"checkpoint {where} does not fit its own configuration: {stored} weights, width {width}, depth {depth}"
        )


def agents() -> dict[str, EntryPoint]:
    """Return where the class of each installed agent is found, by the agent's name.

    An entry point of the group "minrl.agents" names a class, or a dict of many: {name: "module:Class"}, where the
    module is relative to the package that holds the dict.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        try:
            table = point.load()
        except Exception:  # raised again where this agent is used; others stay usable
            table = None
        if isinstance(table, dict):
            package = sys.modules[point.module].__package__
            found |= {name: EntryPoint(name, f"{package}.{where}", GROUP) for name, where in table.items()}
        else:
            found[point.name] = point
    return found


def agent_class(name: str) -> type[Actor]:
    """Return the class of an installed agent.

    Raises:
        ValueError: if no installed agent has this name (the nearest one is named), or its entry point cannot be
            imported or is no subclass of `Actor`.
    """
    point = choose(agents(), name, "agent")
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f'agent "{name}" ({point.value}) cannot be imported: {error}') from error
    if not (isinstance(kind, type) and issubclass(kind, Actor)):
        raise ValueError(f'agent "{name}" ({point.value}) is no subclass of minrl.agent.Actor')
    return kind
