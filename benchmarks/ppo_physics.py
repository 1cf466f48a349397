"""Share of the simulator in training recurrent PPO on Hopper-v5: CPU time of its steps alone over that of all.

    python benchmarks/ppo_physics.py [--rounds 5]

The settings of `ppo_speed.py`'s row: eight environments in Stable-Baselines3's `DummyVecEnv`, 128 steps, minibatches of
256, width 128, one thread. Rounds in turn, medians. The simulator's steps take the actions of a rollout of the policy.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from ppo_peers import HOPPER, N_ENVS, OURS, Row, environments, learn, make


def main() -> None:
    """Print both rates and the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    row = Row(HOPPER, 128, 256, 128)
    model, alone = make(OURS, row), environments(OURS, HOPPER)
    learn(model, row.n_steps * N_ENVS)  # compiles
    alone.reset()
    whole, physics = [], []
    for _ in range(rounds):
        whole.append(learn(model, row.n_steps * N_ENVS).whole)
        actions = np.clip(np.asarray(model.rollout_buffer.actions), -1, 1).reshape(row.n_steps, N_ENVS, -1)
        begin = time.process_time()
        for each in actions:
            alone.step(each)
        physics.append(time.process_time() - begin)
    steps = row.n_steps * N_ENVS
    share = statistics.median(a / b for a, b in zip(physics, whole, strict=True))
    rates = [steps / statistics.median(times) for times in (whole, physics)]
    print(
        f"training {rates[0]:.0f} steps/s, the environments alone {rates[1]:.0f}: {100 * share:.0f} % of the CPU time"
    )


if __name__ == "__main__":
    main()
