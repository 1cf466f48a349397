"""Disks that are full or broken, limits, and odd names: one line that names a file, and a run that goes on."""

import errno
import random
import shutil
from pathlib import Path

import pytest
from equality import differences
from kills import Killer
from scenarios import Scenario

RUNS = {kind: Scenario(kind, "mingru", 1) for kind in ("decision", "ppo")}


def broken(killer: Killer, scenario: Scenario, out: Path, **fault: object) -> None:
    """Check that a run with a fault ends well or with one line, and then goes on to the bits of one without."""
    whole, _, _ = killer.reference(scenario)
    shutil.rmtree(out, ignore_errors=True)
    done = killer.server.run(scenario.words(out, killer.data), out, **fault)  # type: ignore[arg-type]
    assert "Traceback" not in done["said"], (fault, done["said"])
    if done["code"] != 0:
        last = done["said"].strip().splitlines()[-1]
        assert (done["code"], last.startswith("minrl: "), str(out) in last) == (2, True, True), (fault, done)
    again = killer.server.run(scenario.words(out, killer.data), out)
    assert again["code"] == 0, (fault, again["said"])
    assert differences(whole, out) == [], fault


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(("action", "error"), [("from", errno.ENOSPC), ("once", errno.EIO)], ids=["full", "broken"])
def test_a_disk_that_is_full_or_broken(kind: str, action: str, error: int, killer: Killer) -> None:
    _, calls, _ = killer.reference(RUNS[kind])
    for call in random.Random(f"{kind} {error}").sample(range(calls), 1):
        broken(killer, RUNS[kind], killer.folder / "disk", action=action, call=call, error=error)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", RUNS)
def test_an_error_of_every_writing_call(kind: str, killer: Killer) -> None:
    _, calls, _ = killer.reference(RUNS[kind])
    for call in range(0, calls, 3):
        for action, error in (("from", errno.ENOSPC), ("once", errno.EIO)):
            broken(killer, RUNS[kind], killer.folder / "disk", action=action, call=call, error=error)


def test_a_limit_on_the_size_of_files(killer: Killer) -> None:
    broken(killer, RUNS["decision"], killer.folder / "limited", limit=4096)


@pytest.mark.parametrize("name", ["é…" * 50, "x" * 255, "two\nlines", " "], ids=ascii)
@pytest.mark.slow
def test_names_of_folders(name: str, killer: Killer) -> None:
    broken(killer, RUNS["decision"], killer.folder / name)
