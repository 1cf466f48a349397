"""CPU time of an action of the C file beside onnxruntime and this package, in one run.

    python benchmarks/c_export.py [--cells mingru minlstm gru lstm] [--rounds 9] [--json benchmarks/c_export.json]

Policies of recurrent PPO with random weights, width 64, two blocks, one environment, one thread. The C file is compiled
by `cc -std=c99 -O3`, once more with `-march=native` and with `-DPOLICY_PORTABLE`, and acts 20,000 steps a round, the
others 1,000; rounds in turn, medians. The file takes AVX2 where the processor has it; portable is SSE2 on x86-64.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minrl.agents.__main__ import main as command
from minrl.play import Player
from minrl.runs import checkpoint
from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
TASK, STEPS, C_STEPS = "minrl/PendulumNoVel-v1", 1_000, 20_000
TRAIN = (
    "train ppo --no-config --width 64 --depth 2 --n-envs 2 --n-steps 32 --batch-size 32 --n-epochs 1 --steps 64 "
    "--evaluate-episodes 1 --evaluate-max-steps 20 --threads 1"
)
CLOCK = """\
#include "policy.h"
#include <stdio.h>
#include <time.h>
int main(void) {
    policy_state state;
    float observation[POLICY_OBSERVATION_SIZE], action[1], sum = 0.0f;
    unsigned seed = 1;
    policy_init(&state);
    const clock_t begin = clock();
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < POLICY_OBSERVATION_SIZE; i++)
            observation[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) / 8388608.0f - 1.0f;
        policy_step(&state, observation, 0.0f, step == 0, action);
        sum += action[0];
    }
    printf("%.9g %.9g\\n", (double)(clock() - begin) / CLOCKS_PER_SEC / STEPS, (double)sum);
    return 0;
}
"""


def prepared(cell: str, folder: Path) -> dict[str, Callable[[], float]]:
    """Train and export a policy; return for each way to act a function that measures its seconds an action."""
    import onnxruntime

    run = folder / cell
    assert command([*TRAIN.split(), "--env", TASK, "--cell", cell, "--out", str(run)]) == 0
    assert command(["export", str(run), "--c", str(folder / f"{cell}-c"), "--onnx", str(run) + ".onnx"]) == 0
    here = folder / f"{cell}-c"
    (here / "clock.c").write_text(CLOCK, encoding="utf-8")
    compiler, source = shutil.which("cc") or "cc", ["clock.c", "policy.c", "-lm", "-o"]
    for more, program in ([], "clock"), (["-march=native"], "clock-native"), (["-DPOLICY_PORTABLE"], "clock-portable"):
        flags = ["-std=c99", "-O3", *more, f"-DSTEPS={C_STEPS}", *source, program]
        subprocess.run([compiler, *flags], cwd=here, check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(run) + ".onnx", options, providers=["CPUExecutionProvider"])
    agent = checkpoint.load(run)
    seen = np.random.default_rng(0).uniform(-1, 1, (STEPS, 1, 2)).astype(np.float32)
    nothing, starts = np.zeros(1, np.float32), np.zeros(1, np.bool_)
    player = Player(agent, 1)

    def by_c(program: str = "clock") -> float:
        done = subprocess.run([str(here / program)], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[0])

    def by_onnxruntime() -> float:
        state = agent.initial_state(1).numpy()
        begin = time.process_time()
        for row in seen:
            feeds = {"observation": row, "reward": nothing, "episode_start": starts, "state": state}
            _, state = session.run(None, feeds)
        return (time.process_time() - begin) / STEPS

    def by_minrl() -> float:
        begin = time.process_time()
        for row in seen:
            player.act(row, nothing, starts)
        return (time.process_time() - begin) / STEPS

    return {
        "C": by_c,
        "C, native": lambda: by_c("clock-native"),
        "C, portable": lambda: by_c("clock-portable"),
        "onnxruntime": by_onnxruntime,
        "minrl, torch": by_minrl,
    }


def main() -> int:
    """Measure all cells and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["mingru", "minlstm", "gru", "lstm"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=HERE / "c_export.json")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    raw: dict[str, Any] = {"processor": platform.machine(), "rounds": arguments.rounds, "microseconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        for cell in arguments.cells:
            ways = prepared(cell, Path(folder))
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(arguments.rounds):
                for name, measure in ways.items():
                    times[name].append(round(1e6 * measure(), 3))
            raw["microseconds"][cell] = times
            library = Path(folder) / f"{cell}-c" / "policy.o"
            subprocess.run(["cc", "-std=c99", "-O3", "-c", "policy.c"], cwd=library.parent, check=True)
            raw.setdefault("bytes of the object file", {})[cell] = library.stat().st_size
    print("| cell | C, µs an action | with -march=native | portable | onnxruntime ÷ C | minrl ÷ C | object file, kB |")
    print("|---|---|---|---|---|---|---|")
    for cell, times in raw["microseconds"].items():
        medians = {name: float(np.median(values)) for name, values in times.items()}
        size = raw["bytes of the object file"][cell] / 1000
        ratios = " | ".join(f"{medians[name] / medians['C']:.1f}" for name in ("onnxruntime", "minrl, torch"))
        in_c = " | ".join(f"{medians[name]:.2f}" for name in ("C", "C, native", "C, portable"))
        print(f"| {cell} | {in_c} | {ratios} | {size:.0f} |")
    with replacing(arguments.json) as temporary:
        temporary.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
