"""Effect of the hidden state at the start of a row on the critics of a finished run of recurrent SAC.

    python benchmarks/sac_row_state.py runs/sac_table/pendulum/minGRU-0

The measure is that of R2D2 (Kapturowski et al. 2019, section 3): the same rows, from the stored state, from it
refreshed by burn-in, or from zeros, against the state computed with the current weights from the start of the episode.
Printed are the mean differences of the critics' values over their mean size, at the first step of the rows and at the
last one that counts, and the CPU time of the scans beside that of `zero`. The run's checkpoint holds its replay buffer.
The table and its numbers are written to `benchmarks/sac_row_state.md` and `.json` (`--table`).

Shapes: B rows, T time.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import minrl
from minrl.online.offpolicy.replay import Rows, SequenceBuffer
from minrl.runs import checkpoint
from minrl.system.files import replacing

BURN_INS = 8, 16, 32  # multiples of the stride at which states are stored


def values(policy: Any, rows: Rows) -> tuple[torch.Tensor, float]:
    """Return the critics' values (B, T) of the actions taken, without burn-in, and the CPU seconds of the scans."""
    begin = time.process_time()
    with torch.no_grad():
        latent = policy.latents(rows).critic
        seconds = time.process_time() - begin
        taken = rows.actions[:, rows.burn_in :]
        heads = policy.critic.heads
        if policy.is_discrete:
            found = heads(latent.flatten(0, 1)).mean(0).gather(1, taken.flatten(0, 1))
        else:
            found = heads(torch.cat([latent, taken], dim=2).flatten(0, 1)).mean(0)
    return found.view(latent.shape[:2]), seconds


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    saved = checkpoint.read(arguments.run).training
    config, replay = saved["config"], saved["model"]["replay"]
    policy = minrl.load(arguments.run).policy
    size = int(replay["arrays"]["final"].shape[1])
    length = config["segment_length"]
    buffer = SequenceBuffer(
        config["buffer_size"], policy.observation_space, policy.action_space, "cpu", config["n_envs"],
        segment_length=length, row_state="stored",
    )  # fmt: skip
    buffer.restore(replay)
    random = np.random.default_rng(0)
    rows = random.integers(config["n_envs"], size=arguments.rows)
    most = (buffer.sizes[rows] - length) // buffer.stride
    first = (random.random(arguments.rows) * most).astype(np.int64) * buffer.stride
    ages = buffer.arrays["ages"][rows, (buffer.heads - buffer.sizes)[rows] % buffer.capacity + first]
    before = int(np.minimum(ages, first).max())
    fresh = buffer.rows_at(rows, first, before, length)
    fresh = fresh._replace(state=torch.zeros_like(fresh.state))
    expected, whole = values(policy, fresh)
    stored = buffer.rows_at(rows, first, 0, length)
    ways: dict[str, Rows] = {"zero": stored._replace(state=torch.zeros_like(stored.state)), "stored": stored}
    ways |= {f"burn-in {count}": buffer.rows_at(rows, first, count, length) for count in BURN_INS}
    # Rows that open an episode in their midst are equal from there on: only those that do not are compared.
    inside = ~stored.reset.any(1)
    scale = float(expected[inside].abs().mean())
    numbers: dict[str, dict[str, float]] = {}
    base = 0.0
    for name, way in ways.items():
        found, seconds = values(policy, way)
        base = base or seconds
        gap = (found - expected).abs()[inside] / scale
        numbers[name] = {
            "first": float(gap[:, 0].mean()), "last": float(gap[:, -1].mean()), "scans": seconds / base,
        }  # fmt: skip
    numbers["recomputed"] = {"first": 0.0, "last": 0.0, "scans": whole / base}
    about = {"rows": int(inside.sum()), "length": length, "steps_of_a_stream": size, "env": config["env"]}
    text = (
        f"# Hidden state at the start of a row\n\n`{about['env']}`, a finished run of recurrent SAC: "
        f"{about['rows']} rows of {length} steps within episodes.\n"
        "Difference of the critics' values from those with the state computed from the start of the episode by the "
        "current\nweights, over their mean size, and the CPU time of the scans.\n\n"
        "| `row_state` | difference at the first step | at the last | scans |\n|---|---|---|---|\n"
    )
    text += "".join(
        f"| {name} | {row['first']:.2%} | {row['last']:.2%} | {row['scans']:.1f}x |\n" for name, row in numbers.items()
    )
    print(text)
    for path, content in (
        (arguments.table, text + "\nWritten by `python benchmarks/sac_row_state.py RUN`.\n"),
        (arguments.table.with_suffix(".json"), json.dumps({**about, "ways": numbers}, indent=1) + "\n"),
    ):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
