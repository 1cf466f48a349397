"""Tables of D4RL's data sets: file names, reference returns, environments, time limits.

Source: D4RL's `d4rl/infos.py`, Farama-Foundation/D4RL at commit 0ace16de1795f9e99b0e413f3617f797a997b57e.
"""

from minrl.data.environment import EnvironmentInfo

_MUJOCO = ("halfcheetah", "hopper", "walker2d", "ant")
_QUALITIES = ("random", "medium", "expert", "medium-replay", "medium-expert")
_ADROIT = ("pen", "hammer", "relocate", "door")
_MAZES = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}

# (return of a random agent, return of an expert) by prefix of the set's name; the longest match counts.
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "minigrid-fourrooms": (0.01442, 2.89685),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "door": (-56.512833, 2880.5693087298737),
    "flow-ring": (-165.22, 24.42),
    "flow-merge": (118.67993, 330.03179),
    "carla-lane": (-0.8503839912088142, 1023.5784385429523),
    "carla-town": (-114.81579500772153, 2440.1772022247314),
    "bullet-halfcheetah": (-1275.766996, 2381.6725),
    "bullet-hopper": (20.058972, 1441.8059623430963),
    "bullet-ant": (373.705955, 2650.495),
    "bullet-walker2d": (16.523877, 1623.6476303317536),
    "bullet-maze2d-open": (8.75, 64.15),
    "bullet-maze2d-umaze": (32.46, 153.99),
    "bullet-maze2d-medium": (14.87, 238.05),
    "bullet-maze2d-large": (1.82, 285.92),
}

# D4RL's data were recorded in gym's -v2 tasks; Gymnasium's -v4 have the same physics and rewards.
_ENVIRONMENTS: dict[str, tuple[str, int]] = {
    "halfcheetah": ("HalfCheetah-v4", 1000),
    "hopper": ("Hopper-v4", 1000),
    "walker2d": ("Walker2d-v4", 1000),
    "ant": ("Ant-v4", 1000),
    "pen": ("AdroitHandPen-v1", 100),
    "hammer": ("AdroitHandHammer-v1", 200),
    "relocate": ("AdroitHandRelocate-v1", 200),
    "door": ("AdroitHandDoor-v1", 200),
}

# Time limits of sets without an environment here, for files that do not mark timeouts.
_TIME_LIMITS = {
    "antmaze-umaze": 700,
    "antmaze": 1000,
    "kitchen": 280,
    "maze2d-umaze": 300,
    "maze2d-medium": 600,
}
_TIME_LIMITS |= {"maze2d-large": 800, "maze2d-open": 150, "minigrid": 50}


def _known_files() -> dict[str, str]:
    files: dict[str, str] = {}
    for task in _MUJOCO:
        for quality in (*_QUALITIES, "full-replay"):
            stem = f"{task}_{quality.replace('-', '_')}"
            files |= {f"{task}-{quality}-{version}": f"{stem}-{version}.hdf5" for version in ("v1", "v2")}
            files[f"bullet-{task}-{quality}-v0"] = f"bullet-{stem}.hdf5"
        files |= {f"{task}-{quality}-v0": f"{task}_{quality.replace('-', '_')}.hdf5" for quality in _QUALITIES}
        files[f"{task}-medium-replay-v0"] = f"{task.removesuffix('2d')}_mixed.hdf5"
        del files[f"bullet-{task}-full-replay-v0"]
    files["ant-random-expert-v0"] = "ant_random_expert.hdf5"
    for task in _ADROIT:
        files |= {f"{task}-{kind}-v1": f"{task}-{kind}-v1.hdf5" for kind in ("human", "cloned", "expert")}
        files[f"{task}-human-v0"] = f"{task}-v0_demos_clipped.hdf5"
        files[f"{task}-cloned-v0"] = f"{task}-demos-v0-bc-combined.hdf5"
        files[f"{task}-expert-v0"] = f"{task}-v0_expert_clipped.hdf5"
    for maze in ("umaze", "medium", "large", "eval-umaze", "eval-medium", "eval-large"):
        files[f"maze2d-{maze}-v1"] = f"maze2d-{maze}-sparse-v1.hdf5"
        files[f"maze2d-{maze}-dense-v1"] = f"maze2d-{maze}-dense-v1.hdf5"
    files["maze2d-open-v0"] = "maze2d-open-sparse.hdf5"
    files["maze2d-open-dense-v0"] = "maze2d-open-dense.hdf5"
    files |= {f"bullet-maze2d-{maze}-v0": f"bullet-maze2d-{maze}-sparse.hdf5" for maze in ("open", *_MAZES)}
    for maze, place in _MAZES.items():
        plain = maze if maze == "umaze" else f"{maze}-play"
        for version, ending in (("v0", "sparse"), ("v2", "sparse_fixed")):
            start = f"Ant_maze_{place}_noisy_multistart"
            files[f"antmaze-{plain}-{version}"] = f"{start}_{maze != 'umaze'}_multigoal_False_{ending}.hdf5"
            files[f"antmaze-{maze}-diverse-{version}"] = f"{start}_True_multigoal_True_{ending}.hdf5"
    for task in ("ring", "merge"):
        files[f"flow-{task}-random-v0"] = f"flow-{task}-v0-random.hdf5"
        files[f"flow-{task}-controller-v0"] = f"flow-{task}-v0-idm.hdf5"
    return files | {
        "kitchen-complete-v0": "mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
        "kitchen-partial-v0": "kitchen_microwave_kettle_light_slider-v0.hdf5",
        "kitchen-mixed-v0": "kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
        "minigrid-fourrooms-v0": "minigrid4rooms.hdf5",
        "minigrid-fourrooms-random-v0": "minigrid4rooms_random.hdf5",
        "carla-lane-v0": "carla_lane_follow_flat-v0.hdf5",
        "carla-town-v0": "carla_town_subsamp_flat-v0.hdf5",
        "carla-town-full-v0": "carla_town_flat-v0.hdf5",
    }


FILES: dict[str, str] = _known_files()  # name -> file name in D4RL's folder


def _longest(name: str, prefixes: list[str]) -> str | None:
    fitting = [prefix for prefix in prefixes if name == prefix or name.startswith(f"{prefix}-")]
    return max(fitting, key=len, default=None)


def reference_scores(name: str) -> tuple[float, float] | None:
    """Return the returns that score 0 and 100, the same for all versions of a task."""
    dense = name.replace("maze2d-eval-", "maze2d-")
    prefix = _longest(dense, list(REFERENCE_SCORES))
    return None if prefix is None else REFERENCE_SCORES[prefix]


def time_limit(name: str) -> int | None:
    """Return the step limit of this task's episodes, None if unknown."""
    limits = _TIME_LIMITS | {prefix: steps for prefix, (_, steps) in _ENVIRONMENTS.items()}
    prefix = _longest(name, list(limits))
    return None if prefix is None else limits[prefix]


def environment(name: str, observation_width: int) -> EnvironmentInfo | None:
    """Return the Gymnasium environment to evaluate in, None if there is none.

    Ant was recorded with 84 contact forces in the observation, which in Gymnasium's Ant-v4 are an option.
    """
    prefix = _longest(name, list(_ENVIRONMENTS))
    if prefix is None:
        return None
    environment_id, steps = _ENVIRONMENTS[prefix]
    options = {"use_contact_forces": True} if prefix == "ant" and observation_width == 111 else {}
    return EnvironmentInfo(id=environment_id, kwargs=options, max_episode_steps=steps)
