"""Fuzzing of every reader: the first 10,000 mutants of each.

    python tests/faults/fuzz.py --mutants 10000 --json tests/faults/fuzz.json

A mutant is read in a child process with at most 5 s of CPU time and 1 GB of further memory. It must load, or end with
one line and exit code 2. A run that was loaded makes one more update, which may fail: one line, exit code 1. Mutant i
of a reader depends on the seed, the reader and i alone: `--only READER --first i --mutants 1` repeats it. The file's
mutants are counted on, those that ended otherwise are read again, and its table lies beside it.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]

import shortcuts  # noqa: E402
from called_formats import CALLED  # noqa: E402
from formats import READERS as COMMANDS  # noqa: E402
from formats import Reader, mutate  # noqa: E402
from fuzz_results import FAILS, GOOD, LOADS, REFUSED, Outcome, Tally, load, save, table  # noqa: E402
from online_formats import ONLINE  # noqa: E402

from minrl.agents.__main__ import main  # noqa: E402
from minrl.system.messages import one_line  # noqa: E402

CPU_SECONDS, WALL_SECONDS, MEMORY = 5, 60, 1 << 30
PIECE = 200  # mutants between two writes of the results
QUICK = Path("/dev/shm")  # a file system in memory, where fsync takes no time
READERS = COMMANDS | CALLED | ONLINE


def fuzz(name: str, sample: Path, numbers: Iterable[int], seed: int) -> Iterator[Outcome]:
    """Read mutants of a reader's sample, many in each child process; one that dies is replaced."""
    numbers_left = list(numbers)
    while numbers_left:
        quick = QUICK if QUICK.is_dir() else None
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as notes,
            tempfile.TemporaryDirectory(prefix="minrl-fuzz-", dir=quick) as place,
        ):
            child = os.fork()
            if child == 0:
                _read_all(READERS[name], name, sample, numbers_left, seed, notes.fileno(), Path(place))
            _, status = os.waitpid(child, 0)
            notes.seek(0)
            lines = [json.loads(line) for line in notes]
        ended = [Outcome(*line) for line in lines if len(line) == 4]
        yield from ended
        begun = [line for line in lines if len(line) == 2]
        if len(begun) > len(ended):
            number, done = begun[-1]
            ended.append(Outcome(number, _death(status), done))
            yield ended[-1]
        elif not ended:
            raise RuntimeError(f"the child process of {name} ended with status {status} before its first mutant")
        numbers_left = numbers_left[len(ended) :]


def _death(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"exit {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    slow = {signal.SIGPROF: f"more than {CPU_SECONDS} s of CPU time", signal.SIGALRM: f"more than {WALL_SECONDS} s"}
    return slow.get(signal.Signals(number), signal.Signals(number).name)


def _read_all(reader: Reader, name: str, sample: Path, numbers: list[int], seed: int, notes: int, place: Path) -> None:
    """Read mutants one after another in this child process, noting the start and end of each; never return."""
    try:
        _prepare(place)
        folder = place / "mutant"
        for number in numbers:
            shutil.copytree(sample, folder, symlinks=True)
            done = mutate(folder, reader, random.Random(f"{seed}/{name}/{number}"))
            os.write(notes, f"{json.dumps([number, done])}\n".encode())
            kind, said = _read(reader, folder)
            os.write(notes, f"{json.dumps([number, kind, done, said[-3000:]])}\n".encode())
            for left in (folder, place / "cache", place / "minari"):
                shutil.rmtree(left, ignore_errors=True)
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def _prepare(place: Path) -> None:
    """Set this process's folders and limits; the memory limit counts on top of what libraries have mapped."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.disable()  # pytest's prints a page for each process that dies
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    _move_to(place)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))


def _move_to(place: Path) -> None:
    """Keep what this process writes in a folder, and leave out what no mutant changes."""
    os.environ.update(
        HOME=str(place),
        MINRL_CACHE=str(place / "cache"),
        MINARI_DATASETS_PATH=str(place / "minari"),
        HF_HUB_OFFLINE="1",
    )
    for name in ("MINRL_DEBUG", "MINRL_TRUST"):
        os.environ.pop(name, None)
    os.chdir(place)
    shortcuts.take()


def _read(reader: Reader, folder: Path) -> tuple[str, str]:
    """Read one mutant within the limits; return how it ended and the end of what it printed on standard error."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        return _answer(reader, folder)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(reader: Reader, folder: Path) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(reader.command(folder)) if reader.read is None else _call(reader.read, folder)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # what a user would see as a traceback
        return "traceback", traceback.format_exc()
    said = err.getvalue()
    lines = [line for line in said.splitlines() if line.startswith("minrl: ")]
    if "Traceback" in said:
        return "traceback", said
    if code == 0:
        return LOADS, said
    if code == 1 and lines and "is not finite by step" in lines[-1]:
        return FAILS, said
    if code != 2:
        return f"exit code {code}", said
    if not lines or said.rstrip("\n").splitlines()[-1] != lines[-1]:
        return "no line", said
    return (REFUSED if len(lines[-1]) <= 1000 else "a long line"), said


def _call(read: Callable[[Path], object], folder: Path) -> int:
    """Call a reader as the command line calls its commands, which turn these errors into one line."""
    try:
        read(folder)
    except (ValueError, OSError) as error:
        print(f"minrl: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def make_sample(name: str, folder: Path) -> Path:
    """Make the sample of a reader in a folder of its own, in a child process, as training starts threads."""
    folder.mkdir(parents=True)

    def make() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            READERS[name].make(folder)

    in_child(make, f"the sample of {name} cannot be made")
    return folder


def in_child(work: Callable[[], None], failure: str) -> None:
    """Run `work` in a forked process and wait for it; raise RuntimeError with the message `failure` if it fails."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(failure)


def count(name: str, sample: Path, numbers: list[int], seed: int, tally: Tally) -> Iterator[Outcome]:
    """Read mutants, count them with their CPU time, and yield those that end as they may not."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for outcome in fuzz(name, sample, numbers, seed):
        tally.add(outcome)
        if outcome.kind not in GOOD:
            yield outcome
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    tally.cpu_seconds += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def warm_up(name: str, sample: Path, place: Path) -> None:
    """Read a reader's sample once in this process, which imports and compiles for all that it forks."""
    place.mkdir()
    here = Path.cwd()
    _move_to(place)
    try:
        kind, said = _answer(READERS[name], Path(shutil.copytree(sample, place / "mutant", symlinks=True)))
    finally:
        os.chdir(here)
    if kind not in GOOD:
        raise RuntimeError(f"the sample of {name} ends with {kind}: {said}")


def read_mutants(name: str, place: Path, arguments: argparse.Namespace, results: Path) -> None:
    """Read a reader's mutants that the results do not hold, in a process that is forked for it."""
    tallies = load(results)
    tally, shown = tallies.setdefault(name, Tally()), 0
    again = sorted(map(int, tally.faults))
    first, tally.mutants, tally.faults = arguments.first + tally.mutants, tally.mutants - len(again), {}
    last = arguments.first + arguments.mutants
    pieces = [again] if again else []
    pieces += [list(range(at, min(at + PIECE, last))) for at in range(first, last, PIECE)]
    if not pieces:
        return
    sample = make_sample(name, place / "sample")
    warm_up(name, sample, place / "warm-up")
    for numbers in pieces:
        for outcome in count(name, sample, numbers, arguments.seed, tally):
            if shown < arguments.show:
                print(f"{name} {outcome.number} ({outcome.done}): {outcome.kind}\n{outcome.said}", flush=True)
            shown += 1
        save(results, tallies, READERS)
    print(table({name: tally}).splitlines()[-1], flush=True)


def run() -> int:
    """Run the chosen readers over mutants and print a table; return 1 if one ended as it may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000, help="of each reader (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(READERS), choices=list(READERS), metavar="READER")
    parser.add_argument("--show", type=int, default=5, help="faults to show of each reader (default: 5)")
    parser.add_argument("--json", type=Path, help="file of the results; mutants that it holds are not read again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="minrl-samples-") as folder:
        results = arguments.json.resolve() if arguments.json else Path(folder) / "results.json"
        for name in arguments.only:
            place = Path(folder) / name.replace(" ", "_")
            place.mkdir()
            work = partial(read_mutants, name, place, arguments, results)
            in_child(work, f"the mutants of {name} cannot be read")
            shutil.rmtree(place)
        tallies = load(results)
    print(table(tallies))
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(run())
