"""Oldest, pinned and newest dependencies under each Python, each in an environment of its own, in one table.

    python tests/versions/run.py [--pythons 3.10 3.13] [--sets oldest newest] [--wheels FOLDER] [--torch VERSION]

For each Python on PATH (python3.10, …, or pyenv's) and each set: resolve, install, and run tests/versions/check.py with
the installed package outside of the checkout. The oldest set has the lowest version of each direct dependency that
pyproject.toml allows, the pinned what `make` installs, the newest what uv takes by itself (`pip install uv`). A Python
that this machine lacks is written down as not tried. Rows of other Pythons and sets stay in the file. `--wheels` has
files that may be taken besides the index, `--torch` names the version of torch in the newest set.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PYTHONS, SETS = ("3.10", "3.11", "3.12", "3.13"), ("oldest", "pinned", "newest")
# The oldest torch is older than the exporter needs, whose extra has bounds of its own.
EXTRAS = {"oldest": "mujoco,plot,arrow", "newest": "mujoco,plot,arrow,compare,onnx"}
# Builds of torch for GPUs bring these themselves; pins of one platform would hold on another.
OF_TORCH = ("nvidia-", "cuda-", "triton", "torch==")


def interpreter(python: str) -> str | None:
    """Return the path of a Python that starts; None if there is none."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (shutil.which(f"python{python}"), *sorted(map(str, home.glob(f"{python}.*/bin/python3")))):
        if path and subprocess.run([path, "-c", "import venv, ctypes, lzma"], capture_output=True).returncode == 0:
            return path
    return None


def run(words: list[str | Path], log: Path, **environment: str) -> None:
    """Run a command with its output in `log`; raise if it fails."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(map(str, words))}\n")
        file.flush()
        subprocess.run(words, check=True, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment)


def install(python: str, which: str, folder: Path, log: Path, wheels: Path | None, torch: str) -> Path:
    """Make an environment with a set and minrl's wheel, and return its Python."""
    found = interpreter(python)
    assert found is not None
    run([found, "-m", "venv", folder], log)
    own = folder / "bin/python"
    uv = [sys.executable, "-m", "uv", "pip"]
    links = ["--find-links", wheels.resolve()] if wheels else []
    put = [*uv, "install", "--quiet", "--python", own, *links]
    wheel = next(log.parent.glob("minrl-*.whl"))
    if which == "pinned":
        by_hash = [*put, "--require-hashes", "--no-deps", "-r"]
        try:
            run([*by_hash, ROOT / "requirements/torch_cpu.txt"], log)
        except subprocess.CalledProcessError:
            run([*by_hash, ROOT / "requirements/torch.txt"], log)
        (metadata,) = folder.glob("lib/python*/site-packages/torch-*.dist-info/METADATA")
        is_for_gpu = "Requires-Dist: nvidia" in metadata.read_text(encoding="utf-8")
        for name in ("cuda.txt", "dev.txt") if is_for_gpu else ("dev.txt",):
            run([*by_hash, ROOT / "requirements" / name], log)
        run([*put, "--no-deps", wheel], log)
        return own
    if which == "newest":
        run([*put, f"torch{torch and '=='}{torch}", f"{wheel}[{EXTRAS[which]}]"], log)
        return own
    extras = [word for extra in EXTRAS[which].split(",") for word in ("--extra", extra)]
    words = [
        *uv,
        "compile",
        ROOT / "pyproject.toml",
        *extras,
        "--quiet",
        "--resolution",
        "lowest-direct",
        "--no-header",
    ]
    words += ["--python-version", python, "--only-binary", ":all:", "--no-annotate"]
    pins = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    chosen = log.with_suffix(".txt")
    chosen.write_text("".join(f"{pin}\n" for pin in pins if not pin.startswith(OF_TORCH)), encoding="utf-8")
    run([*put, "-r", chosen, next(pin for pin in pins if pin.startswith("torch=="))], log)
    run([*put, "--no-deps", wheel], log)
    return own


def tried(python: str, which: str, work: Path, wheels: Path | None, torch: str) -> dict[str, str]:
    """Return the versions and the outcome of one set under one Python."""
    if interpreter(python) is None:
        return {"versions": "", "outcome": f"not tried: no Python {python} on this machine"}
    log, folder = work / f"{which}-{python}.log", work / "venv"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        own = install(python, which, folder, log, wheels, torch)
    except subprocess.CalledProcessError as error:
        return {"versions": "", "outcome": f"not installed: {' '.join(map(str, error.cmd))[-80:]}"}
    words = [own, HERE / "check.py", "--outside", ROOT]
    done = subprocess.run(words, capture_output=True, text=True, cwd=work, env=os.environ | {"PYTHONPATH": ""})
    with log.open("a", encoding="utf-8") as file:
        file.write(done.stdout + done.stderr)
    shutil.rmtree(folder)
    lines = done.stdout.splitlines()
    passed = [line.split()[1] for line in lines if line.startswith("ok: ")]
    failed = (done.stderr.strip().splitlines() or ["?"])[-1][:120]
    outcome = "passes" if done.returncode == 0 else f"fails after {', '.join(passed) or 'nothing'}: {failed}"
    return {"versions": lines[0] if lines else "", "outcome": outcome}


def table(rows: dict[str, dict[str, str]]) -> str:
    """Format the results as Markdown."""
    lines = ["# Versions", "", "| Python | set | result | versions |", "|---|---|---|---|"]
    for python in PYTHONS:
        for which in SETS:
            row = rows.get(f"{python} {which}", {"versions": "", "outcome": "not tried"})
            packages = row["versions"].partition(", ")[2]
            lines.append(f"| {python} | {which} | {row['outcome']} | {packages} |")
    note = (
        "Each in an environment of its own, with the wheel, outside of the checkout: imports of every module, "
        "training, resuming, evaluation, export (but the oldest), PPO and its zips (`tests/versions/check.py`). "
        "Oldest: the lowest direct dependencies that `pyproject.toml` allows. Written by `make versions`."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> int:
    """Try all, write the table, and return 1 if anything that was tried fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--wheels", type=Path, help="folder of wheels that pip may take too")
    parser.add_argument("--torch", default="", help="version of torch in the newest set (default: the newest)")
    parser.add_argument("--work", type=Path, help="folder for environments and logs (default: a temporary one)")
    parser.add_argument("--json", type=Path, default=HERE / "versions.json")
    arguments = parser.parse_args()
    path: Path = arguments.json
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work: Path = arguments.work or Path(folder)
        work.mkdir(exist_ok=True, parents=True)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        for python in arguments.pythons:
            for which in arguments.sets:
                row = tried(python, which, work, arguments.wheels, arguments.torch)
                rows[f"{python} {which}"] = row
                print(f"Python {python}, {which}: {row['outcome']} ({row['versions']})", flush=True)
                path.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                path.with_suffix(".md").write_text(table(rows), encoding="utf-8")
    return int(any(row["outcome"].startswith(("fails", "not installed")) for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
