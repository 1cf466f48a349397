"""Programs in processes that have loaded torch alone, forked from one server: importing torch takes 1.5 s."""

import os
import subprocess
import sys
import tempfile
import traceback
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch"])
# A forked child cannot wait for its parent's server, and starts one of its own where it needs one.
os.register_at_fork(after_in_child=forkserver._forkserver.__init__)  # type: ignore[attr-defined, misc]


def run(
    program: str | Path, *words: Any, env: dict[str, str] | None = None, cwd: Path | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program as `python` does, except that torch is loaded; return its exit code and output.

    Args:
        program: source text, or a file.
        words: its arguments.
        env: all environment variables; None keeps those of this process. Torch has read those of the server.
        cwd: its folder.
        check: True raises AssertionError after a failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "err")]
        variables = dict(os.environ) if env is None else env
        arguments = (program, [str(word) for word in words], variables, str(cwd or Path.cwd()), *map(str, outputs))
        process = _CONTEXT.Process(target=_run, args=arguments)
        process.start()
        process.join()
        done = subprocess.CompletedProcess(str(program), process.exitcode or 0, *(path.read_text() for path in outputs))
    assert not check or done.returncode == 0, done.stderr
    return done


def _read(program: Path) -> tuple[str, str, str]:
    return str(program), str(program.parent), program.read_text(encoding="utf-8")


def _run(program: str | Path, words: list[str], env: dict[str, str], cwd: str, out: str, err: str) -> None:
    """Run the program in this process, which ends with it."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    name, first, text = ("-c", "", program) if isinstance(program, str) else _read(program)
    # Without the folders that pytest has added.
    others = [path for path in sys.path if path and not path.startswith((f"{ROOT}/tests", f"{ROOT}/benchmarks"))]
    sys.argv, sys.path = [name, *words], [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *others]
    code: Any = 1
    try:
        exec(compile(text, name, "exec"), {"__name__": "__main__", "__file__": name})
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
