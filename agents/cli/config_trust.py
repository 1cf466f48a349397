"""Check of the environment that a config file names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minrl.data.environment import EnvironmentInfo, check_trusted
from minrl.data.trust import check_keywords


def check_environment_of_config(
    table: Mapping[str, Any], flags: Mapping[str, Any], key: str, file: Path | None
) -> None:
    """Check the environment of a config's table [train] unless a flag names it.

    Args:
        table: of the file.
        flags: that the user has given.
        key: of the environment's id in both.
        file: the config, None without one.

    Raises:
        ValueError: if making it might run code that only the file names.
    """
    named, kwargs = table.get(key), table.get("env_kwargs", {})
    if not isinstance(named or "", str) or not isinstance(kwargs, dict):
        return  # an error of its own follows
    if flags.get(key):
        check_keywords(flags[key], kwargs, f"config {file}")
    elif named:
        check_trusted(EnvironmentInfo(named, kwargs), f"config {file}")
