"""The table of cells: those of this package and those that other packages add by an entry point."""

from collections.abc import Iterator, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from minrl.cells.base import Cell

GROUP = "minrl.cells"


class CellTable(MutableMapping[str, type[Cell]]):
    """Cells by name; a package adds its own by the entry point group `minrl.cells`, as agents and environments do.

    In its pyproject.toml: `[project.entry-points."minrl.cells"]` and `name = "package.module:Class"`. A cell is
    imported where it is used for the first time, so that its module may import this package. Names of this table come
    before those of entry points.

    Args:
        own: the cells that need no entry point.
    """

    def __init__(self, own: dict[str, type[Cell]]) -> None:
        self._cells = own

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def __getitem__(self, name: str) -> type[Cell]:
        """Return the cell's class.

        Raises:
            KeyError: if there is none.
            ValueError: if an entry point cannot be imported or is no subclass of `Cell`.
        """
        if name not in self._cells:
            self._cells[name] = _loaded(self._points[name])
        return self._cells[name]

    def __setitem__(self, name: str, cell: type[Cell]) -> None:
        self._cells[name] = cell

    def __delitem__(self, name: str) -> None:
        del self._cells[name]

    def __contains__(self, name: object) -> bool:
        return name in self._cells or name in self._points

    def __iter__(self) -> Iterator[str]:
        yield from list(self._cells)
        yield from (name for name in self._points if name not in self._cells)

    def __len__(self) -> int:
        return len(self._cells.keys() | self._points.keys())


def _loaded(point: EntryPoint) -> type[Cell]:
    try:
        cell = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f'cell "{point.name}" ({point.value}) cannot be imported: {error}') from error
    if not (isinstance(cell, type) and issubclass(cell, Cell)):
        raise ValueError(f'cell "{point.name}" ({point.value}) is no subclass of minrl.cells.Cell')
    return cell
