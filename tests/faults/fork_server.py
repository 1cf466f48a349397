"""Server that runs commands of minrl in forked children, with faults in their writing calls: python fork_server.py.

It reads one request a line, {"words": …, "log": …, "folder": …, "call": …, "action": …, "error": …, "after": …}, and
answers {"code": …, "calls": …}. A fork takes milliseconds, where a process takes seconds to import everything. Another
request, {"warm": words}, runs in the server, so that all later children have its kernels, which take seconds to load.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ACTIONS = {"count": 0, "kill": 1, "once": 2, "from": 3}


def without_plots() -> None:
    """Leave out plots, which take seconds and which no run reads again."""
    for name in ("minrl.runs.learning_curve", "minrl.training.target_sweep"):
        importlib.import_module(name).find_spec = lambda _: None  # type: ignore[attr-defined]
    importlib.import_module("minrl.runs.figures").has_matplotlib = lambda: False  # type: ignore[attr-defined]


def with_few_steps() -> None:
    """Learn the value of relabelled returns in few steps, which are a run's longest part."""
    importlib.import_module("minrl.training.relabel_returns").STEPS = 20  # type: ignore[attr-defined]


def child(request: dict[str, Any], shim: Any, reply: int) -> None:
    """Run a command with its faults, report the number of its calls, and end the process."""
    from minrl.agents.__main__ import main

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    code: Any = 1
    if request.get("limit"):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    shim.fault_arm(
        os.fsencode(request["folder"]), request.get("call", -1), ACTIONS[request["action"]], request.get("error", 0)
    )
    try:
        code = main(request["words"])
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(reply, str(shim.fault_calls()).encode())
        os._exit(code if isinstance(code, int) else 1)


def run(request: dict[str, Any], shim: Any) -> dict[str, Any]:
    """Run a command in a child, killed after a while if the request says so."""
    read, write = os.pipe()
    begin, pid = time.monotonic(), os.fork()
    if pid == 0:
        os.close(read)
        child(request, shim, write)
    os.close(write)
    after = request.get("after")
    timer = threading.Timer(after, os.kill, (pid, signal.SIGKILL)) if after is not None else None
    if timer is not None:
        timer.start()
    calls = os.read(read, 64)
    os.close(read)
    # Not reaped yet, so that the timer cannot kill another process of this number.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if timer is not None:
        timer.cancel()
        timer.join()
    _, status, used = os.wait4(pid, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "calls": int(calls or b"-1"),
        "seconds": time.monotonic() - begin,
        "cpu": used.ru_utime + used.ru_stime,
    }


def main() -> None:
    """Import everything, run one command to warm up, then serve requests."""
    without_plots()
    with_few_steps()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in ("training.offline", "online.train", "compare.run.runner", "agents.ppo_agent", "agents.cli.compare"):
        importlib.import_module(f"minrl.{name}")
    shim = ctypes.CDLL(None)
    shim.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    shim.fault_calls.restype = ctypes.c_long
    from minrl.agents.__main__ import main as command

    for words in json.loads(sys.argv[1]):
        command(words)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"code": command(request["warm"])} if "warm" in request else run(request, shim)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
