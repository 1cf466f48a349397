"""`minrl data`: list, describe and import data sets, and select columns of them."""

import argparse
from pathlib import Path
from typing import Any

from minrl.data import load
from minrl.data.environment import EnvironmentInfo
from minrl.data.episode import Episodes
from minrl.data.listing import describe, import_file, local_datasets
from minrl.data.minari.columns import parse_columns, select_columns
from minrl.data.trust import reading_only
from minrl.system.config import key_value
from minrl.system.json_text import to_json
from minrl.system.mujoco import quiet_mujoco
from minrl.system.trust import add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions `list`, `info`, `import` and `select`."""
    parser.usage = "minrl data list | info NAME | import FILE [--env MODULE:ID] | select NAME --columns 0-4"
    parser.epilog = (
        "names of data sets:\n"
        "  minari:NAME   in $MINARI_DATASETS_PATH or ~/.minari/datasets\n"
        "  d4rl:NAME     in $D4RL_DATASET_DIR or ~/.d4rl/datasets\n"
        "  hdf5:FILE     a flat file like D4RL's, or a Minari set's folder\n"
        "A Minari or D4RL set that is not on this machine is downloaded."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, prog=parser.prog)
    listing = actions.add_parser("list", help="data sets on this machine", description="Data sets on this machine.")
    listing.add_argument("--json", action="store_true", help="as a JSON array")
    listing.set_defaults(run=_list)
    info = actions.add_parser("info", help="size, returns, spaces and environment of a data set")
    info.add_argument("name", metavar="NAME", help="minari:NAME, d4rl:NAME or hdf5:FILE")
    info.add_argument("--json", action="store_true", help="as a JSON object")
    _add_statements(info)
    add_trust(info, "read a set that unpacks to a thousand times the bytes of its files")
    info.set_defaults(run=_info)
    importing = actions.add_parser(
        "import",
        help="check a flat HDF5 file (like D4RL's) and write it as a Minari set",
        description="Check a flat HDF5 file (like D4RL's) or an old Minari set, and write it as a Minari set.",
        epilog="example:\n  minrl data import drive.hdf5 --env mytasks:Drive-v0 --env-kwargs level=hard",
    )
    importing.add_argument("file", metavar="FILE", type=Path, help="the HDF5 file, or the folder of a Minari set")
    importing.add_argument("--name", metavar="ID", help="Minari id (default: imported/FILE-v0)")
    _add_statements(importing)
    add_trust(importing, "make whatever environment the file names, where that has the spaces")
    importing.set_defaults(run=_import)
    selecting = actions.add_parser(
        "select",
        help="write a Minari set of some columns of another set's observations",
        description="Write a Minari set of some columns of another set's observations; all else is kept.",
        epilog=(
            "example, positions without velocities:\n  minrl data select minari:minrl/hopper/medium-replay-v0 "
            "--columns 0-4 --env minrl/Hopper-P-v5 --name me/hopper-positions-v0"
        ),
    )
    selecting.add_argument("source", metavar="NAME", help="minari:NAME, d4rl:NAME or hdf5:FILE")
    selecting.add_argument(
        "--columns", metavar="N", nargs="+", required=True, help="columns that are kept, from 0, such as 0 2 5-8"
    )
    selecting.add_argument("--name", metavar="ID", required=True, help="Minari id of the new set")
    selecting.add_argument("--env", metavar="ID", help="environment that shows these columns; MODULE:ID imports MODULE")
    selecting.add_argument(
        "--env-kwargs", metavar="KEY=VALUE", nargs="+", type=key_value, default=[], help="settings of gymnasium.make"
    )
    add_trust(selecting, "read a set that unpacks to a thousand times the bytes of its files")
    selecting.set_defaults(run=_select)


def _add_statements(parser: argparse.ArgumentParser) -> None:
    """Add the flags of spaces and environment, for files that do not state them."""
    group = parser.add_argument_group("spaces and environment, where the file lacks them")
    group.add_argument("--env", metavar="ID", help="environment of the data; MODULE:ID imports MODULE")
    group.add_argument(
        "--env-kwargs", metavar="KEY=VALUE", nargs="+", type=key_value, default=[], help="settings of gymnasium.make"
    )
    group.add_argument("--observation-space", metavar="SPACE", help="such as 'Box(-inf, inf, (3,))', 'Discrete(16)'")
    group.add_argument("--action-space", metavar="SPACE", help="such as 'Discrete(3)' or 'Box(-1, 1, (2,))'")


def _statements(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `_add_statements`'s flags as arguments of `load`."""
    return {
        "observation_space": arguments.observation_space,
        "action_space": arguments.action_space,
        "environment": _environment(arguments),
    }


def _environment(arguments: argparse.Namespace) -> EnvironmentInfo | None:
    """Return the environment of --env and --env-kwargs; None without one."""
    kwargs = dict(arguments.env_kwargs)
    if kwargs and not arguments.env:
        raise ValueError("--env-kwargs are the settings of an environment: name it with --env ID")
    return EnvironmentInfo(arguments.env, kwargs) if arguments.env else None


def _list(arguments: argparse.Namespace) -> int:
    found = local_datasets()
    if arguments.json:
        print(to_json([{**vars(item), "path": str(item.path)} for item in found]))
        return 0
    width = max((len(item.name) for item in found), default=0)
    for item in found:
        shipped = "  ships with minrl" if item.shipped else f"  {item.path}"
        print(f"{item.name:<{width}}  {item.megabytes:8.1f} MB{shipped}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    with reading_only():
        values = describe(load(arguments.name, **_statements(arguments)))
    if arguments.json:
        print(to_json(values))
        return 0
    rows = {key.replace("_", " "): _shown(value) for key, value in values.items() if value is not None}
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    return _written(import_file(arguments.file, arguments.name, **_statements(arguments)))


def _select(arguments: argparse.Namespace) -> int:
    quiet_mujoco()
    columns = parse_columns(arguments.columns)
    return _written(select_columns(arguments.source, columns, arguments.name, _environment(arguments)))


def _written(episodes: Episodes) -> int:
    """Print what was written."""
    place = "no environment" if episodes.environment is None else f"environment {episodes.environment.id}"
    print(f"{episodes.name}: {episodes.num_episodes} episodes, {episodes.num_steps} steps, {place}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
