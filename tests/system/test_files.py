"""Files that are replaced: the old one or the new one, under any name, and errors that name them."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from minrl.runs.attempt import attempt
from minrl.runs.folder import ERRORS
from minrl.system.files import draft_name, flush, make_folder, open_appending, replacing, set_aside
from minrl.system.lock import NAME as LOCK
from minrl.system.lock import folder_lock

NAMES = ["a.json", "ä" * 120 + ".json", "x" * 255, "two\nlines", " ", "-", "…" * 85]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for text in ("old", "new"):
        with replacing(path) as draft:
            draft.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert names(tmp_path) == [name]


def test_an_error_keeps_the_old_file_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with suppress(RuntimeError), replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError("odd")
    assert names(tmp_path) == ["a"]
    assert path.read_text() == "old"


def test_errors_name_the_file_and_not_its_draft(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    with pytest.raises(FileNotFoundError) as caught, replacing(path) as draft:
        draft.write_text("")
    assert caught.value.filename == str(path)


def test_a_limit_on_the_size_of_files_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from minrl.system.files import replacing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "with replacing(Path(sys.argv[1])) as draft: draft.write_bytes(bytes(200))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{tmp_path / 'a'}'"
    assert names(tmp_path) == ["a"]


def test_drafts_of_one_file_have_names_of_their_own() -> None:
    """Draw a hundred names in one process, as two containers may have processes of one number."""
    assert len({draft_name("a") for _ in range(100)}) == 100
    assert all(len(os.fsencode(draft_name(name))) <= 255 for name in NAMES)


def test_folders_are_made_and_flushed(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert make_folder(tmp_path / "a") == []
    flush(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "c")


def test_a_damaged_file_is_kept_beside_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "second"):
        path.write_text(text)
        set_aside(path, "cut\nshort")
        assert (tmp_path / "a.json.damaged").read_text() == path.read_text() == text
        said = f"minrl: {path} is damaged (cut short): kept as a.json.damaged, written anew\n"
        assert capsys.readouterr().err == said


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    """Leave the file alone to which a name in a stranger's folder leads: a lock, a log, a traceback."""
    other = tmp_path / "other"
    other.write_text("whole")
    (tmp_path / "link").symlink_to(other)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "pipe"):
        with pytest.raises(ValueError, match=f"{name} is .*remove it"):
            open_appending(tmp_path / name)
    os.close(reader)
    with pytest.raises(ValueError, match=r"pipe is .*remove it"):
        open_appending(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        open_appending(tmp_path)
    for line in ("one", "two"):
        with open_appending(tmp_path / "new") as file:
            print(line, file=file)
    assert (tmp_path / "new").read_text() == "one\ntwo\n"
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(other)
    with pytest.raises(ValueError, match="remove it"), folder_lock(run):
        pass
    (run / ERRORS).symlink_to(other)
    with attempt("evaluation", 3, run) as tried:
        raise ArithmeticError("a reason")
    assert tried.error == "ArithmeticError: a reason"
    assert other.read_text() == "whole"
