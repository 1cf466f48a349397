"""Recurrent PPO against sb3-contrib's: steps of all environments learned per second of CPU time, in one run.

    python benchmarks/ppo_speed.py [--quick] [--rounds 5] [--json FILE]
    python benchmarks/ppo_speed.py --loops [--rounds 5] [--json FILE]
    python benchmarks/ppo_speed.py --update [--rounds 5] [--json FILE]
    python benchmarks/ppo_speed.py --to-500 [--json FILE]
    python benchmarks/ppo_speed.py --predict [--rounds 5] [--json FILE]

One thread, 8 environments, 10 epochs, all else each library's default. Every figure is the median over interleaved
rounds of the ratio within a round; all share the same environments unless a name says otherwise. `ppo_peers.py` says
what is compared. Policies begin untrained, so that episodes are short and sb3-contrib's sequences with them: it becomes
slower as they grow, we do not. `--loops` prints only the second table: compiled environments against whole training
loops of others (`ppo_loops.py`). `--update` prints only the third: the update against its matrix products
(`ppo_products.py`). `--to-500` measures the cost of learning: CPU seconds without evaluations to the
first evaluation of 500. It resumes from the FILE of an interrupted run, and keeps other figures in it. `--predict`
measures acting with one environment: CPU time of a call of `predict`, width 64.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ppo_products
import torch
from ppo_loops import JAX, LOOPS, compare_loops, lines_of, missing, network_difference
from ppo_peers import (
    APART,
    CARTPOLE,
    CONTRIB,
    GRU,
    HOPPER,
    LSTM,
    MINLSTM,
    MLP,
    N_ENVS,
    NATIVE,
    ONE_CALL,
    OURS,
    PENDULUM,
    Row,
    Seconds,
    environments,
    learn,
    machine,
    make,
    one_call_difference,
    predict_seconds,
)
from ppo_report import save, table, written
from stable_baselines3.common.evaluation import evaluate_policy

WIDTHS = (64, 128, 256)
SHORT = [Row(CARTPOLE, 128, batch, width) for batch in (128, 256) for width in WIDTHS]
LONG = [Row(CARTPOLE, 1024, 1024, width) for width in WIDTHS]
PHYSICS = Row(HOPPER, 128, 256, 128)
FLAT_BATCH, FLAT_STEPS = 512, (64, 256, 1024, 4096)
# Numerator and denominator of each column.
RATIOS = {
    "÷ sb3-contrib": (OURS, CONTRIB),
    "÷ its LSTM in one call": (OURS, ONE_CALL),
    "LSTM ÷ sb3-contrib": (LSTM, CONTRIB),
    "native environments ÷ sb3-contrib": (NATIVE, CONTRIB),
    "SB3 PPO ÷ sb3-contrib": (MLP, CONTRIB),
}
# RL Zoo's horizons for CartPole (hyperparams/ppo.yml); the rest was searched on other seeds (`ppo_search.py`): .61 s in
# the median, where 64 steps, 10 epochs and a rate of 1e-3 need 1.4. The same for all.
TO_500: dict[str, Any] = {"n_epochs": 6, "learning_rate": 2e-3, "gamma": 0.98, "gae_lambda": 0.8}
TO_500_ROW = Row(CARTPOLE, 128, 128, 64)
SEEDS, BETWEEN, EPISODES, MOST_STEPS, GOAL = range(5), 2048, 10, 300_000, 500.0


def measured(row: Row, names: Iterable[str], rounds: int) -> dict[str, list[list[float]]]:
    """Measure CPU seconds of each round for the steps of one rollout: total, acting and updating; by name."""
    models = {name: make(name, row) for name in names}
    times: dict[str, list[list[float]]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            times[name].append(list(learn(model, row.n_steps * N_ENVS)))
    return times


def warm_up(names: Sequence[str] = (OURS, LSTM, CONTRIB, ONE_CALL, MLP), others: Sequence[str] = (HOPPER,)) -> None:
    """Compile kernels and load modules before any measurement on CartPole, or `others`."""
    for environment in (CARTPOLE, *others):
        for name in (*names, *([NATIVE] if environment == CARTPOLE else [])):
            learn(make(name, Row(environment, 16, 64, 64)), 16 * N_ENVS)


def ratio(times: dict[str, list[list[float]]], pair: tuple[str, str], part: str = "whole") -> float | None:
    """Return the median ratio of the first's steps per second to the second's."""
    if not all(name in times for name in pair):
        return None
    at = Seconds._fields.index(part)
    return statistics.median(b[at] / a[at] for a, b in zip(times[pair[0]], times[pair[1]], strict=True))


def rate(row: Row, rounds: Sequence[Sequence[float]], part: str = "whole") -> float:
    """Return the median steps of all environments per CPU second."""
    at = Seconds._fields.index(part)
    return row.n_steps * N_ENVS / statistics.median(seconds[at] for seconds in rounds)


def compare(rows: Sequence[Row], rounds: dict[int, int]) -> list[dict[str, Any]]:
    """Measure and print each row, the median and the smallest of each ratio on CartPole, and Hopper."""
    results = []
    for row in rows:
        native = [NATIVE] if row.environment == CARTPOLE else []
        times = measured(row, (OURS, LSTM, *native, ONE_CALL, MLP, CONTRIB), rounds[row.n_steps])
        ratios = {name: ratio(times, pair) for name, pair in RATIOS.items()}
        results.append(
            {**row._asdict(), "ratios": ratios, "seconds": times, "steps_per_second": rate(row, times[OURS])}
        )
        print(f"# {row}: {written(ratios['÷ sb3-contrib'])}", file=sys.stderr, flush=True)
    of_cartpole = [result["ratios"] for result in results if result["environment"] == CARTPOLE]
    lines: list[list[Any]] = [
        [result["environment"].rpartition("/")[2], *(result[key] for key in ("n_steps", "batch_size", "width")),
         result["steps_per_second"], *result["ratios"].values()] for result in results
    ]  # fmt: skip
    for name, summary in (("median of CartPole", statistics.median), ("smallest of CartPole", min)):
        lines.append([name, "", "", "", "", *(summary([ratios[key] for ratios in of_cartpole]) for key in RATIOS)])
    table(["environment", "n_steps", "batch", "width", "steps/s", *RATIOS], lines)
    return results


def parts(results: Sequence[dict[str, Any]]) -> None:
    """Print acting and updating apart for the rows of width 128."""
    lines = []
    for result in results:
        if result["width"] == 128:
            row, times = Row(*(result[field] for field in Row._fields)), result["seconds"]
            for name in (OURS, NATIVE, LSTM, ONE_CALL, CONTRIB, MLP):
                if name in times:
                    rates = (rate(row, times[name], part) for part in Seconds._fields)
                    lines.append([row.environment.rpartition("/")[2], row.n_steps, row.batch_size, name, *rates])
    table(["environment", "n_steps", "batch", "steps/s of width 128", "in all", "acting", "updating"], lines)


def flatness(steps: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure our steps per CPU second for rollouts of each length, in equal minibatches of `FLAT_BATCH` steps."""
    rows = [Row(CARTPOLE, count, FLAT_BATCH, 128) for count in steps]
    models = [make(OURS, row) for row in rows]
    rates: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for row, model, found in zip(rows, models, rates, strict=True):
            several = N_ENVS * max(row.n_steps, 1024)
            found.append(several / learn(model, several).whole)
    medians = [statistics.median(found) for found in rates]
    spread = max(medians) / min(medians)
    table(
        ["n_steps", f"steps/s, batch {FLAT_BATCH}, width 128"],
        [*zip(steps, medians, strict=True), ("largest ÷ smallest", spread)],
    )
    return {"steps_per_second": dict(zip(map(str, steps), medians, strict=True)), "largest_over_smallest": spread}


def seconds_to_goal(
    name: str, seed: int, row: Row = TO_500_ROW, settings: dict[str, Any] = TO_500, most_steps: int = MOST_STEPS
) -> dict[str, Any]:
    """Measure CPU seconds and steps until an evaluation reaches the goal, or to `most_steps`."""
    if name == JAX:
        from ppo_jax import JaxPPO, Settings

        epochs, *rates = settings.values()
        model: Any = JaxPPO(Settings(N_ENVS, *row[1:3], epochs, row.width, "mingru", 2, *rates), seed)
    else:
        model = make(name, row, **{**settings, "seed": seed})
        tests = environments(name, CARTPOLE)
        tests.seed(1000 + seed)
    seconds, score = 0.0, 0.0
    begin = time.process_time()
    while score < GOAL and model.num_timesteps < most_steps:
        at = time.process_time()
        model.learn(BETWEEN, reset_num_timesteps=False)
        seconds += time.process_time() - at
        if name == JAX:
            score = model.score(1000 + seed, EPISODES)
        else:
            scores: Any = evaluate_policy(model, tests, n_eval_episodes=EPISODES, deterministic=True)
            score = scores[0]
    steps, reached = model.num_timesteps, bool(score >= GOAL)
    return {"seconds": seconds, "steps": steps, "reached": reached, "seconds_with_tests": time.process_time() - begin}


def to_500(kept: dict[str, Any], path: Path | None, quick: bool) -> None:
    """Run the trainings that `kept` lacks, in turn, and print the table."""
    settings = {**TO_500_ROW._asdict(), **TO_500, "between": BETWEEN, "episodes": EPISODES, "most_steps": MOST_STEPS}
    found = kept.setdefault("to_500", {})
    if found.get("settings") != settings:
        found.clear()
        found.update(settings=settings, runs={})
    names = [name for name in (OURS, NATIVE, JAX, CONTRIB) if name not in missing() and not (quick and name == CONTRIB)]
    for seed in SEEDS:
        for name in names:
            if f"{name}/{seed}" not in found["runs"]:
                found["runs"][f"{name}/{seed}"] = run = seconds_to_goal(name, seed)
                print(f"# {name}, seed {seed}: {run}", file=sys.stderr, flush=True)
                save(kept, path)
    runs = {name: [found["runs"][f"{name}/{seed}"] for seed in SEEDS] for name in names}
    seconds = {name: [run["seconds"] for run in each] for name, each in runs.items()}
    lines: list[list[Any]] = []
    for name, each in runs.items():
        for kind, summary in (("mean", statistics.mean), ("median", statistics.median)):
            spent, reached = summary(seconds[name]), sum(run["reached"] for run in each)
            steps = round(summary([run["steps"] for run in each]))
            against = spent / summary(seconds[CONTRIB]) if CONTRIB in seconds else None
            lines.append([name, kind, f"{reached} of {len(each)}", steps, spent, against])
    table(["to 500", "over seeds", "reached", "steps", "CPU s", "÷ sb3-contrib's"], lines)


def predicting(rounds: int) -> list[dict[str, Any]]:
    """Measure and print CPU microseconds of `predict` for one observation, deterministic and sampled."""
    ours, found = (OURS, APART, MINLSTM, GRU, LSTM), []
    names = (*ours, CONTRIB, MLP)
    for environment in (CARTPOLE, PENDULUM):
        models = {name: make(name, Row(environment, 16, 16, 64)) for name in names}
        seen = models[OURS].observation_space.sample()
        for deterministic in (True, False):
            times: dict[str, list[float]] = {name: [] for name in models}
            for number in range(rounds + 1):
                for name, model in models.items():
                    spent = predict_seconds(model, seen, deterministic, 2000 if name in ours else 300)
                    times[name] += [1e6 * spent] if number else []  # the first one warms up
            found.append({"environment": environment, "deterministic": deterministic, "microseconds": times})
    table(
        ["environment", "action", *(f"{name}, µs" for name in names), "sb3-contrib ÷ ours"],
        [
            [one["environment"].rpartition("/")[2], "likeliest" if one["deterministic"] else "sampled",
             *(statistics.median(each) for each in one["microseconds"].values()),
             statistics.median(b / a for a, b in zip(*(one["microseconds"][x] for x in (OURS, CONTRIB)), strict=True))]
            for one in found
        ],
    )  # fmt: skip
    return found


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no long rollouts or sb3-contrib to 500")
    parser.add_argument("--rounds", type=int, default=5)
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--loops", action="store_true", help="only compiled environments against whole loops")
    alone.add_argument("--update", action="store_true", help="only the update against its matrix products")
    alone.add_argument("--to-500", action="store_true", help="only this: CPU seconds to a return of 500")
    alone.add_argument("--predict", action="store_true", help="only this: CPU time of a call of predict")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = (
        json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json and arguments.json.exists() else {}
    )
    result["machine"] = machine()
    described = ", ".join(f"{package} {number}" for package, number in result["machine"]["versions"].items())
    print(f"{result['machine']['processor']}, {result['machine']['threads']} thread; {described}\n", flush=True)
    if arguments.to_500:
        warm_up([OURS] if arguments.quick else [OURS, CONTRIB], ())
        to_500(result, arguments.json, arguments.quick)
        save(result, arguments.json)
        return 0
    if arguments.predict:
        result["predict"] = predicting(arguments.rounds)
        save(result, arguments.json)
        return 0
    rounds = 2 if arguments.quick else arguments.rounds
    if not arguments.loops and not arguments.update:
        warm_up()
        print(f"One LSTM call: weights differ by {one_call_difference():.0e} after an epoch.\n", flush=True)
        rows = [*SHORT, PHYSICS] if arguments.quick else [*SHORT, *LONG, PHYSICS]
        result["rows"] = compare(rows, {128: rounds, 1024: max(1, rounds // 2)})
        parts(result["rows"])
        result["flatness"] = flatness(FLAT_STEPS[:3] if arguments.quick else FLAT_STEPS, rounds)
        save(result, arguments.json)
    if not arguments.update:
        if JAX not in missing():
            print(f"JAX's network: outputs differ from ours by {network_difference():.0e}.\n", flush=True)
        result["loops"] = compare_loops(LOOPS, rounds)
        table(*lines_of(result["loops"]))
        save(result, arguments.json)
    if not arguments.loops:
        result["updates"] = ppo_products.compare_updates(ppo_products.UPDATES, rounds)
        table(*ppo_products.lines_of(result["updates"]))
        save(result, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
