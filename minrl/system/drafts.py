"""Folders that are filled under a temporary name, and removal of those that killed processes have left."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from minrl.system.lock import folder_lock


@contextmanager
def draft_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield an empty folder to fill and rename, in a hidden one of `parent` that is removed at the end.

    Its process holds the hidden folder's lock. So whoever comes next can tell the drafts of dead processes, whose locks
    are free, and removes them first. Names are random: processes of two containers may have the same number.

    Args:
        parent: folder on the file system of the final place; it exists.
        prefix: of the hidden folder's name, which all drafts of this kind share.

    Raises:
        OSError: if the folder cannot be made.
    """
    remove_left(parent, prefix)
    with ExitStack() as held:
        draft = _locked(parent, prefix, held)
        try:
            content = draft / "content"
            content.mkdir()
            yield content
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def remove_left(parent: Path, prefix: str) -> None:
    """Remove the drafts in `parent` whose processes are dead."""
    for draft in parent.glob(f"{prefix}*"):
        # Kept while its process runs, or if another user owns it.
        with contextlib.suppress(ValueError, OSError), folder_lock(draft):
            shutil.rmtree(draft)


def _locked(parent: Path, prefix: str, held: ExitStack) -> Path:
    """Make a folder and lock it; another process may remove it in between."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            held.enter_context(folder_lock(draft))
        except (ValueError, FileNotFoundError):
            continue
        return draft
