"""Raw data of a comparison for the repository: settings, log and summary of its finished runs, and their scores.

    python benchmarks/archive_runs.py benchmarks/offline_search runs/search [runs/search-elsewhere ...]

Adds the finished runs of one or more folders of the same grid, as `minrl compare GRID --out` makes them, to the
first folder's `runs.zip` and `scores.csv`. Unpacked, `runs.zip` is a folder from which the comparison goes on:

    python -m zipfile -e benchmarks/offline_search/runs.zip runs/search
    minrl compare search --out runs/search
"""

import argparse
import csv
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from minrl.compare.grid.plan import is_done, read_plan
from minrl.compare.report.report import REPORT, SCORES, write_report
from minrl.runs.folder import CONFIG, GRID, PROGRESS, RUNS, SUMMARY
from minrl.system.files import replacing

ARCHIVE = "runs.zip"
# Of a run; its weights and its text log are left out.
KEPT = (CONFIG, PROGRESS, SUMMARY)
# Equal runs give equal bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def collect(whole: Path, folders: Sequence[Path]) -> int:
    """Copy the finished runs of comparisons that `whole` lacks into it; return their number.

    Raises:
        ValueError: if a folder is no comparison's, or its settings are others than those in `whole`.
    """
    added = 0
    for folder in folders:
        plan = read_plan(folder)
        if not (whole / GRID).exists():
            (whole / GRID).write_bytes((folder / GRID).read_bytes())
        planned = {run.key: run for run in read_plan(whole).runs}
        for run in plan.runs:
            if not is_done(folder / run.folder) or is_done(whole / run.folder):
                continue
            if run != planned.get(run.key):
                raise ValueError(f"{folder / run.folder} is of another grid than the archive's, or has other settings")
            (whole / run.folder).mkdir(parents=True, exist_ok=True)
            for name in KEPT:
                (whole / run.folder / name).write_bytes((folder / run.folder / name).read_bytes())
            added += 1
    return added


def write_archive(whole: Path, path: Path) -> None:
    """Write grid and runs of a comparison's folder as a zip."""
    files = [whole / GRID, *sorted(file for file in (whole / RUNS).rglob("*") if file.name in KEPT)]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(whole).as_posix(), EPOCH)
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV; none without the file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Write the rows of a CSV."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Add finished runs to an archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="folder of runs.zip and scores.csv")
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="folder of a comparison")
    arguments = parser.parse_args()
    out: Path = arguments.archive
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary)
        if (out / ARCHIVE).exists():
            with zipfile.ZipFile(out / ARCHIVE) as archive:
                archive.extractall(whole)
        try:
            added = collect(whole, arguments.folders)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        write_report(whole)
        # Rows of earlier runs stay as they were: what their best checkpoints scored is not in the archive.
        kept = {row_key(row): row for row in read_rows(out / SCORES) if row["state"] == "done"}
        rows = [kept.get(row_key(row), row) for row in read_rows(whole / REPORT / SCORES)]
        write_archive(whole, out / ARCHIVE)
        write_rows(rows, out / SCORES)
    print(f"{added} runs added, {sum(row['state'] == 'done' for row in rows)} of {len(rows)} done")
    return 0


def row_key(row: dict[str, str]) -> tuple[str, str, str]:
    """Return what names a run in `scores.csv`."""
    return row["task"], row["method"], row["seed"]


if __name__ == "__main__":
    sys.exit(main())
