"""Store of an experiment's finished parts in one JSON file, from which interrupted runs resume."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minrl.system.files import replacing

from .frame import Done, Numbers, Part

FORMAT = "minrl reproduce 1"


@dataclass(frozen=True)
class Paths:
    """Files of an experiment in a folder."""

    numbers: Path
    table: Path
    plot: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "Paths":
        """Return NAME.json, NAME.md and NAME.png."""
        return cls(folder / f"{name}.json", folder / f"{name}.md", folder / f"{name}.png")


class Store:
    """Finished parts in a JSON file, of any request.

    Raises:
        ValueError: if a file of that name is not from this experiment.
        OSError: if the folder or the file cannot be created.
    """

    def __init__(self, paths: Paths, experiment: str) -> None:
        self.path, self.experiment = paths.numbers, experiment
        paths.numbers.parent.mkdir(parents=True, exist_ok=True)
        if not paths.numbers.exists():
            for path in (paths.table, paths.plot):
                if path.exists():
                    raise ValueError(f"{path} exists and is not from minrl reproduce; give another --out")
        self._parts = self._read()
        # Raise for a folder that cannot be written before the work, not after it.
        self._write()

    def find(self, part: Part) -> Done | None:
        """Return the finished part of equal settings, if any."""
        wanted = _plain(part.settings)
        for found in self._parts:
            if found["settings"] == wanted:
                return Done(part.name, wanted, found["numbers"])
        return None

    def machines(self, done: list[Done]) -> list[str]:
        """List the machines on which these parts were run, each once."""
        settings = [part.settings for part in done]
        return list(dict.fromkeys(part["machine"] for part in self._parts if part["settings"] in settings))

    def add(self, part: Part, numbers: Numbers, machine: str) -> None:
        """Store a part, without dropping parts that another process has stored meanwhile."""
        found = {"name": part.name, "settings": _plain(part.settings), "numbers": _plain(numbers), "machine": machine}
        self._parts = [other for other in self._read() if other["settings"] != found["settings"]] + [found]
        self._write()

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            parts: list[dict[str, Any]] = kept["parts"]
            ours = kept["format"] == FORMAT and kept["experiment"] == self.experiment
        except (ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise ValueError(
                f"{self.path} exists and is not from minrl reproduce {self.experiment}; it is not overwritten: "
                "give another --out"
            )
        return parts

    def _write(self) -> None:
        kept = {"format": FORMAT, "experiment": self.experiment, "parts": self._parts}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(values: Mapping[str, Any]) -> Any:
    """Convert as a JSON round trip does: tuples to lists, keys to text."""
    return json.loads(json.dumps(values))
