"""Walks through folders that may link to each other, to themselves or to the root of the file system."""

import os
from collections.abc import Iterator
from pathlib import Path

DEEPEST = 32  # folders below the first
MOST_LINKED = 10_000  # folders that are reached through links


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder from `root` on with the sorted names of its folders and files, as `os.walk` does.

    Names that the caller removes from the list of folders are not entered. Links to folders are followed, but each real
    folder is entered once, none that holds `root`, none deeper than `DEEPEST`, and at most `MOST_LINKED` by links.
    """
    start = os.path.realpath(root)
    seen, linked = {start, *map(str, Path(start).parents)}, 0
    waiting = [(root, 0, False)]
    while waiting:
        place, depth, by_link = waiting.pop()
        linked += by_link
        if linked > MOST_LINKED:
            continue
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        links = {entry.name for entry in found if entry.is_symlink()}
        folders = [entry.name for entry in found if _is_folder(entry)]
        yield place, folders, [entry.name for entry in found if entry.name not in set(folders)]
        for name in reversed(folders):
            inner = place / name
            real = os.path.realpath(inner)
            if depth < DEEPEST and real not in seen:
                seen.add(real)
                waiting.append((inner, depth + 1, by_link or name in links))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return True if an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
