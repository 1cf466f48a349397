"""Disks that are full or broken, limits, and odd names: one line that names a file, and a run that goes on."""

import errno
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from equality import differences
from kills import Killer
from scenarios import Scenario

from minrl.runs.folder import LAST_CHECKPOINT

RUNS = {kind: Scenario(kind, "mingru", 1) for kind in ("decision", "ppo")}


def refused(done: dict[str, Any], named: str) -> None:
    """Check that a command ended with exit code 2 and a line that names a file."""
    assert "Traceback" not in done["said"], done["said"]
    last = done["said"].strip().splitlines()[-1]
    assert (done["code"], last.startswith("minrl: "), " ".join(named.split()) in last) == (2, True, True), done


def broken(killer: Killer, scenario: Scenario, out: Path, **fault: object) -> None:
    """Check that a run with a fault ends well or with one line, and then goes on to the bits of one without."""
    whole, _, _ = killer.reference(scenario)
    shutil.rmtree(out, ignore_errors=True)
    done = killer.server.run(scenario.words(out, killer.data), out, **fault)  # type: ignore[arg-type]
    assert "Traceback" not in done["said"], (fault, done["said"])
    if done["code"] != 0:
        refused(done, str(out))
    again = killer.server.run(scenario.words(out, killer.data), out)
    assert again["code"] == 0, (fault, again["said"])
    assert differences(whole, out) == [], fault


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(("action", "error"), [("from", errno.ENOSPC), ("once", errno.EIO)], ids=["full", "broken"])
def test_a_disk_that_is_full_or_broken(kind: str, action: str, error: int, killer: Killer) -> None:
    _, calls, _ = killer.reference(RUNS[kind])
    # The third is what the lock says of its holder, which is written through a handle that knows no name.
    for call in [2, *random.Random(f"{kind} {error}").sample(range(calls), 1)]:
        broken(killer, RUNS[kind], killer.folder / "disk", action=action, call=call, error=error)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", RUNS)
def test_an_error_of_every_writing_call(kind: str, killer: Killer) -> None:
    _, calls, _ = killer.reference(RUNS[kind])
    for call in range(0, calls, 3):
        for action, error in (("from", errno.ENOSPC), ("once", errno.EIO), ("from", errno.EROFS)):
            broken(killer, RUNS[kind], killer.folder / "disk", action=action, call=call, error=error)


def test_a_limit_on_the_size_of_files(killer: Killer) -> None:
    broken(killer, RUNS["decision"], killer.folder / "limited", limit=4096)


def test_a_folder_that_cannot_be_written(killer: Killer) -> None:
    """Refuse to begin on a read-only file system or without rights, of which root has all but those of a shim."""
    out = killer.folder / "read-only"
    for error in (errno.EROFS, errno.EACCES):
        done = killer.server.run(RUNS["decision"].words(out, killer.data), out, "from", call=0, error=error)
        refused(done, str(out))
        assert not out.exists()
    done = killer.server.run(RUNS["decision"].words(Path("/proc/1/run"), killer.data), Path("/proc/1"))
    refused(done, "/proc/1/run")


def test_links_in_the_place_of_a_folder(killer: Killer) -> None:
    place = killer.folder / "links"
    place.mkdir()
    (place / "file").write_text("x")
    for name, target in (("itself", "itself"), ("to_a_file", "file"), ("below_a_file", "file/deeper")):
        (place / name).symlink_to(target)
        refused(killer.server.run(RUNS["decision"].words(place / name, killer.data), place), f"{place / name}")
    assert (place / "file").read_text() == "x"
    (place / "folder").mkdir()
    (place / "to_a_folder").symlink_to("folder")
    broken_link = place / "dangling"
    broken_link.symlink_to("nowhere")
    refused(killer.server.run(RUNS["decision"].words(broken_link, killer.data), place), str(broken_link))
    whole, _, _ = killer.reference(RUNS["decision"])
    assert killer.server.run(RUNS["decision"].words(place / "to_a_folder", killer.data), place)["code"] == 0
    assert differences(whole, place / "folder") == []


def test_a_folder_that_is_removed_while_it_is_written(killer: Killer) -> None:
    """End with a line, or with the whole run if that was quicker; the same command begins it anew."""
    scenario, out = RUNS["decision"], killer.folder / "removed"
    whole, _, seconds = killer.reference(scenario)

    def remove() -> None:
        end = time.monotonic() + 60
        while not (out / LAST_CHECKPOINT).exists() and time.monotonic() < end:
            time.sleep(seconds / 1000)
        shutil.rmtree(out, ignore_errors=True)

    remover = threading.Thread(target=remove)
    remover.start()
    done = killer.server.run(scenario.words(out, killer.data), out)
    remover.join()
    if done["code"] != 0:
        refused(done, str(out))
    shutil.rmtree(out, ignore_errors=True)
    assert killer.server.run(scenario.words(out, killer.data), out)["code"] == 0
    assert differences(whole, out) == []


@pytest.mark.parametrize("name", ["é…" * 50, "x" * 255, "two\nlines", " "], ids=ascii)
@pytest.mark.slow
def test_names_of_folders(name: str, killer: Killer) -> None:
    broken(killer, RUNS["decision"], killer.folder / name)
