"""Data sets of OGBench's manipulation tasks, made again by its own oracles, with the reward of one task each.

    pip install ogbench
    python benchmarks/ogbench_sets.py [--episodes 1000] [--sets cube-single scene ...]

The "play" sets of OGBench (Park et al., arXiv 2410.20092): a plan oracle with noise .1, smoothed over .5, goes from one
random target to the next for 1,001 steps an episode. Rewards are those of the single-task variant, by OGBench's own
`relabel_dataset`: minus the number of parts that are not at their goal. Written as Minari sets `ogbench/NAME-play-v0`,
whose environment is `NAME-singletask-v0`, for `minrl compare ogbench --trust`. Not as in OGBench: an episode of the
scene that ends in a rare state that its script refuses is kept.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import h5py
import numpy as np
from tqdm import tqdm

from minrl.data.environment import EnvironmentInfo
from minrl.data.listing import import_file
from minrl.data.minari.folders import find
from minrl.system.extras import install_hint
from minrl.system.mujoco import quiet_mujoco

# The probability with which a target lies on another cube is drawn from this range for each episode.
STACKING = {"cube-single": (0.0, 0.0), "cube-double": (0.0, 0.25), "scene": (0.5, 0.5), "puzzle-3x3": (0.5, 0.5)}
STEPS = 1001


def oracles(name: str, environment: Any) -> dict[str, Any]:
    """Return the plan oracles of a task by the kind of their target."""
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    options = {"env": environment, "noise": 0.1, "noise_smoothing": 0.5}
    if name.startswith("puzzle"):
        return {"button": ButtonPlanOracle(gripper_always_closed=True, **options)}
    found = {"cube": CubePlanOracle(**options)}
    if name == "scene":
        kinds = {"button": ButtonPlanOracle, "drawer": DrawerPlanOracle, "window": WindowPlanOracle}
        found |= {kind: oracle(**options) for kind, oracle in kinds.items()}
    return found


def play(name: str, environment: Any, agents: dict[str, Any], random: np.random.Generator, seed: int) -> dict[str, Any]:
    """Play one episode; return observations, actions and the states that rewards are computed from."""
    observation, info = environment.reset(seed=seed)
    stacking = float(random.uniform(*STACKING[name]))
    agent = agents[info["privileged/target_task"]]
    agent.reset(observation, info)
    rows: dict[str, list[Any]] = {"observations": [], "actions": [], "qpos": [], "button_states": []}
    done = False
    while not done:
        action = np.clip(np.array(agent.select_action(observation, info)), -1, 1)
        rows["observations"].append(observation)
        rows["actions"].append(action)
        observation, _, terminated, truncated, info = environment.step(action)
        rows["qpos"].append(info["prev_qpos"])  # before the action, as in OGBench's script
        rows["button_states"].append(info.get("prev_button_states", []))
        done = terminated or truncated
        if agent.done:
            seen, about = environment.unwrapped.set_new_target(p_stack=stacking)
            agent = agents[about["privileged/target_task"]]
            agent.reset(seen, about)
    return {key: np.array(values) for key, values in rows.items()}


def make(name: str, episodes: int, steps: int) -> None:
    """Record a set, compute its rewards, and store it as a Minari set."""
    from ogbench.relabel_utils import relabel_dataset

    world = gymnasium.make(f"{name}-v0", terminate_at_goal=False, mode="data_collection", max_episode_steps=steps)
    agents, random = oracles(name, world), np.random.default_rng(0)
    np.random.seed(0)  # noqa: NPY002 - the oracles draw from NumPy's global generator
    played = [play(name, world, agents, random, seed) for seed in tqdm(range(episodes), desc=name, unit="episode")]
    whole = {key: np.concatenate([each[key] for each in played]) for key in played[0]}
    single = gymnasium.make(f"{name}-singletask-v0")
    relabel_dataset(name, single, whole)
    ends = np.cumsum([len(each["actions"]) for each in played]) - 1
    timeouts = np.zeros(len(whole["actions"]), np.bool_)
    timeouts[ends] = True
    with TemporaryDirectory() as folder:
        file = Path(folder, "set.hdf5")
        with h5py.File(file, "w") as out:
            for key in ("observations", "actions", "rewards"):
                out[key] = whole[key].astype(np.float32)
            out["terminals"], out["timeouts"] = np.zeros_like(timeouts), timeouts
            # Of the single task over an episode of its environment: nothing done, and done at once.
            low = float(np.min(whole["rewards"])) * single.spec.max_episode_steps  # type: ignore[union-attr]
            out.attrs["ref_min_score"], out.attrs["ref_max_score"] = low, 0.0
        environment = EnvironmentInfo(f"ogbench:{name}-singletask-v0")
        spaces = {"observation_space": single.observation_space, "action_space": single.action_space}
        found = import_file(file, f"ogbench/{name}-play-v0", environment=environment, **spaces)
    print(f"{found.name}: {found.num_episodes} episodes, {found.num_steps} steps", flush=True)


def main() -> int:
    """Make the sets that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=STEPS, help="of an episode")
    parser.add_argument("--sets", nargs="+", choices=list(STACKING), default=list(STACKING))
    arguments = parser.parse_args()
    try:
        import ogbench  # noqa: F401 - it registers the tasks
    except ImportError:
        print(f"OGBench is missing: pip install ogbench ({install_hint('mujoco')} for MuJoCo)", file=sys.stderr)
        return 2
    quiet_mujoco()
    for name in arguments.sets:
        if find(f"ogbench/{name}-play-v0") is None:
            make(name, arguments.episodes, arguments.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
