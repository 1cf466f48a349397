"""Pinned versions that `make` installs, with the hashes of all their files, from the bounds in pyproject.toml.

    python -m pip install uv && python requirements/lock.py [--upgrade]

Writes, for every platform and Python at once, torch.txt (torch alone), torch_cpu.txt (its build for CPUs, which pip may
find on disk), cuda.txt (what torch's builds for GPUs load) and dev.txt (all else). Versions that the files name stay
unless `--upgrade` is given or the bounds exclude them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "2.13.0"
# What torch needs on every platform. Its builds for GPUs need more, which cuda.txt has: with that in dev.txt a build
# for CPUs alone would come with gigabytes that it never loads.
NEEDS = ["filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2", "fsspec"]
# PyTorch's own build for CPUs, of CPython 3.11 on Linux, is no file of the index that pip reads by default. It is asked
# for first: of torch.txt pip would take a file whose hash the index states.
CPU_BUILDS = ["sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"]
HEAD = "# Written by requirements/lock.py. Install with `make`, or pip's --require-hashes.\n"


def compiled(source: Path, name: str, upgrade: bool, *more: str) -> list[str]:
    """Return the pinned requirements of `source`, each with its hashes; the file `name` says which to prefer."""
    with tempfile.TemporaryDirectory() as folder:
        out, config = Path(folder) / name, Path(folder) / "uv.toml"
        if (HERE / name).exists():
            out.write_bytes((HERE / name).read_bytes())
        needs = ", ".join(f'"{need}"' for need in NEEDS)
        metadata = f'[[dependency-metadata]]\nname = "torch"\nversion = "{TORCH}"\nrequires-dist = [{needs}]\n'
        config.write_text(metadata if name == "dev.txt" else "", encoding="utf-8")
        words = [sys.executable, "-m", "uv", "--config-file", str(config), "pip", "compile", str(source), "--quiet"]
        words += ["--universal", "--python-version", "3.10", "--generate-hashes", "--no-annotate", "--no-header"]
        subprocess.run([*words, "--output-file", str(out), *["--upgrade"] * upgrade, *more], check=True)
        return re.findall(r"^[^\s#].*(?:\n[ \t].*)*", out.read_text(encoding="utf-8"), re.MULTILINE)


def save(name: str, blocks: list[str]) -> None:
    """Write a file of requirements."""
    (HERE / name).write_text(HEAD + "".join(f"{block}\n" for block in blocks), encoding="utf-8")


def main() -> int:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the bounds allow")
    upgrade: bool = parser.parse_args().upgrade
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "torch.in"
        alone.write_text(f"torch=={TORCH}\n", encoding="utf-8")
        gpu = compiled(alone, "cuda.txt", upgrade)
        extra = ["--extra", "dev", "--constraint", str(alone), "--no-emit-package", "torch"]
        dev = compiled(HERE.parent / "pyproject.toml", "dev.txt", upgrade, *extra)
    (torch,) = (block for block in gpu if block.startswith("torch=="))
    save("torch.txt", [torch])
    save("torch_cpu.txt", [f"torch=={TORCH}+cpu" + "".join(f" \\\n    --hash={build}" for build in CPU_BUILDS)])
    save("cuda.txt", [block for block in gpu if re.match(r"nvidia-|cuda-|triton", block)])
    save("dev.txt", dev)
    return 0


if __name__ == "__main__":
    sys.exit(main())
