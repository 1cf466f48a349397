"""Native environments against whole training loops: JAX, CleanRL's style and sb3-contrib; the second table of
`ppo_speed.py`.

A peer that is not installed is named in one line and left out. PufferLib has no column: its newest wheel, 2.0.2, needs
gymnasium 0.29 and numpy 1.23, and later releases are source that compiles against CUDA.

Shapes: B rows, T time.
"""

import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import sb3_contrib
import torch
from gymnasium.vector import AutoresetMode
from ppo_cleanrl import CleanPPO
from ppo_peers import CARTPOLE
from stable_baselines3.common.env_util import make_vec_env

from minrl.agents.ppo import RecurrentPPO
from minrl.online.inputs.segments import Segments
from minrl.online.vector import as_vec_env

OURS, OURS_GRU = "ours, native environments", "ours, GRU, native environments"
JAX, JAX_GRU, CLEAN, CONTRIB = "JAX", "JAX, GRU", "CleanRL's style", "sb3-contrib"
NAMES = (OURS, OURS_GRU, JAX, JAX_GRU, CLEAN, CONTRIB)
RATIOS = {"÷ JAX": (OURS, JAX), "GRU ÷ JAX's GRU": (OURS_GRU, JAX_GRU), "÷ CleanRL's style": (OURS, CLEAN),
          "÷ sb3-contrib": (OURS, CONTRIB)}  # fmt: skip


class Loop(NamedTuple):
    """Settings of one line of the table."""

    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    width: int


LOOPS = (Loop(8, 128, 256, 10, 64), Loop(64, 128, 1024, 1, 64))


def missing() -> dict[str, str]:
    """Return the names of missing peers, with the reason."""
    if importlib.util.find_spec("jax") is None:
        return dict.fromkeys((JAX, JAX_GRU), 'jax is not installed: pip install "minrl[bench]"')
    return {}


def make(name: str, loop: Loop, **settings: Any) -> Any:
    """Create a training with seed 0."""
    sizes = (loop.n_envs, loop.n_steps, loop.batch_size, loop.n_epochs, loop.width)
    if name in (JAX, JAX_GRU):
        from ppo_jax import JaxPPO, Settings

        return JaxPPO(Settings(*sizes, "mingru" if name == JAX else "gru"))
    if name == CLEAN:
        return CleanPPO(CARTPOLE, *sizes)
    options = {"n_steps": loop.n_steps, "batch_size": loop.batch_size, "n_epochs": loop.n_epochs, "seed": 0,
               "device": "cpu", **settings}  # fmt: skip
    if name == CONTRIB:
        envs = make_vec_env(CARTPOLE, n_envs=loop.n_envs, seed=0)
        kwargs = {"lstm_hidden_size": loop.width}
        return sb3_contrib.RecurrentPPO("MlpLstmPolicy", envs, policy_kwargs=kwargs, **options)
    cell = "mingru" if name == OURS else "gru"
    return RecurrentPPO("MlpPolicy", native(loop.n_envs), policy_kwargs={"width": loop.width, "cell": cell}, **options)


def native(count: int) -> Any:
    """Create compiled environments as Stable-Baselines3's."""
    same_step = AutoresetMode.SAME_STEP
    return as_vec_env(gymnasium.make_vec(CARTPOLE, count, "vector_entry_point", autoreset_mode=same_step))


def network_difference() -> float:
    """Return the largest difference between the values and logits of our network and of JAX's with equal weights.

    Raises:
        RuntimeError: if it exceeds rounding, so that another network is timed.
    """
    from ppo_jax_network import initial_state, scan

    generator, worst = np.random.default_rng(0), 0.0
    for cell in ("mingru", "gru"):
        policy = make(OURS if cell == "mingru" else OURS_GRU, Loop(3, 32, 96, 1, 16)).policy
        seen = generator.normal(size=(3, 32, 2)).astype(np.float32)
        reset = generator.random((3, 32)) < 0.1
        never, zeros = torch.zeros(3, 32, 0), policy.initial_state(3)
        rows = Segments(torch.from_numpy(seen), never, zeros, torch.from_numpy(reset))
        with torch.no_grad():
            values, _, _ = policy.evaluate_actions(rows, torch.zeros(96))
            logits = policy.action_net(policy._scan_segments(rows)[0])
        theirs = scan(_as_jax(policy, cell), seen.swapaxes(0, 1), initial_state(3, 16, 2), reset.T)
        worst = max(worst, float(np.abs(np.asarray(theirs[0]).swapaxes(0, 1) - logits.numpy()).max()))
        worst = max(worst, float(np.abs(np.asarray(theirs[1]).T - values.view(3, 32).numpy()).max()))
    if worst > 1e-5:
        raise RuntimeError(f"JAX's network is not ours: outputs differ by {worst}")
    return worst


def _as_jax(policy: Any, cell: str) -> dict[str, Any]:
    def of(weight: torch.Tensor, bias: torch.Tensor, transposed: bool = True) -> dict[str, Any]:
        values = weight.detach().numpy()
        return {"w": values.T if transposed else values, "b": bias.detach().numpy()}

    def layer(module: Any, transposed: bool = True) -> dict[str, Any]:
        return of(module.weight, module.bias, transposed)

    blocks = []
    for block in policy.trunk.backbone.blocks:
        found = {"norm": layer(block.norm, False), "conv": layer(block.conv, False)}
        if cell == "mingru":
            found["gates"] = layer(block.cell.gates)
        else:
            of_input, of_hidden, input_bias, hidden_bias = block.cell.gru.all_weights[0]
            found["gates"], found["hidden"] = of(of_input, input_bias), of(of_hidden, hidden_bias)
        blocks.append(found)
    return {
        "embed": layer(policy.trunk.embed), "blocks": blocks, "norm": layer(policy.trunk.backbone.norm, False),
        "actor": layer(policy.action_net), "critic": layer(policy.value_net),
    }  # fmt: skip


def compare_loops(loops: Sequence[Loop], rounds: int) -> list[dict[str, Any]]:
    """Measure CPU and wall seconds of `rounds` interleaved rounds for each training, and print missing peers."""
    absent = missing()
    for name, reason in absent.items():
        print(f"{name}: left out, {reason}", file=sys.stderr, flush=True)
    results = []
    for loop in loops:
        models = {name: make(name, loop) for name in NAMES if name not in absent}
        steps = loop.n_envs * loop.n_steps
        seconds: dict[str, list[float]] = {name: [] for name in models}
        wall: dict[str, list[float]] = {name: [] for name in models}
        for number in range(rounds + 1):
            for name, model in models.items():
                count = steps * (1 if name in (CLEAN, CONTRIB) else 4)
                begin, at = time.process_time(), time.perf_counter()
                model.learn(count, reset_num_timesteps=False)
                if number:  # the first one warms up
                    seconds[name].append((time.process_time() - begin) * steps / count)
                    wall[name].append((time.perf_counter() - at) * steps / count)
        ratios = {
            head: statistics.median(b / a for a, b in zip(seconds[ours], seconds[peer], strict=True))
            for head, (ours, peer) in RATIOS.items()
            if ours in seconds and peer in seconds
        }
        compiled = {name: models[name].compile_seconds for name in (JAX, JAX_GRU) if name in models}
        # Above 1, several cores were used.
        cores = {name: max(a / b for a, b in zip(seconds[name], wall[name], strict=True)) for name in models}
        rates = {name: steps / statistics.median(seconds[name]) for name in models}
        results.append({**loop._asdict(), "ratios": ratios, "steps_per_second": rates, "seconds": seconds,
                        "compile_seconds": compiled, "most_cores": cores})  # fmt: skip
        print(f"# {loop}: {ratios}", file=sys.stderr, flush=True)
    return results


def lines_of(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return heads and lines of the table."""
    heads = [*Loop._fields, *(f"{name}, steps/s" for name in NAMES), *RATIOS, "JAX compiles, s"]
    lines = [
        [*(result[field] for field in Loop._fields), *(result["steps_per_second"].get(name) for name in NAMES),
         *(result["ratios"].get(head) for head in RATIOS), result["compile_seconds"].get(JAX)]
        for result in results
    ]  # fmt: skip
    return heads, lines
