"""Data sets of `minrl compare memory-search` and `memory-offline`: guides in corridors and delays, MuJoCo's positions.

    python benchmarks/memory_sets.py            # written to $MINARI_DATASETS_PATH or ~/.minari/datasets

Agents learn from episodes of all lengths up to the one in which they are evaluated, as the longest alone give a
recurrent agent no shorter way to begin with. Sets that exist already stay; those of MuJoCo need `regen/...`, without
which they are left out.
"""

import sys
from functools import partial

from minrl.collect.guides import Guide
from minrl.collect.record import collect, record
from minrl.data import EnvironmentInfo, make_environment
from minrl.data.minari.columns import select_columns
from minrl.data.minari.folders import find
from minrl.data.minari.writer import record_set

EPISODES, LONGEST, LONGEST_OF_SEARCH = 300, 30, 20
# Columns of positions: Gymnasium's observation lists them first.
POSITIONS = {"hopper": (5, "minrl/Hopper-P-v5"), "halfcheetah": (8, "minrl/HalfCheetah-P-v5")}
KINDS = ("medium-replay", "medium-expert", "medium")  # the last for the search


def corridors(name: str, longest: int = LONGEST) -> None:
    """Record T-Maze's guide in corridors of 1 to `longest` steps; the set's environment is the longest."""
    with record_set(name, make_environment(EnvironmentInfo("minrl/TMaze-v0", {"length": longest}))) as writer:
        for number in range(EPISODES):
            environment = make_environment(EnvironmentInfo("minrl/TMaze-v0", {"length": 1 + number % longest}))
            record(writer, environment, [Guide(environment)], 1, number, False)


def delays(name: str) -> None:
    """Record Delayed Cue's guide, after delays of up to `LONGEST` steps."""
    options = {"delay": 0, "jitter": LONGEST}
    collect("guide", "minrl/DelayedCue-v0", EPISODES, name, environment_options=options, progress=False)


def cards(name: str) -> None:
    """Record Repeat Previous's guide, 32 cards back."""
    collect("guide", "minrl/RepeatPrevious32-v0", EPISODES, name, progress=False)


MAKERS = {
    "memory/t-maze-30-v0": corridors,
    "memory/delayed-cue-30-v0": delays,
    "memory/repeat-previous-32-v0": cards,
    "memory/t-maze-20-v0": partial(corridors, longest=LONGEST_OF_SEARCH),
}


def main() -> int:
    """Write the sets that are missing."""
    for name, make in MAKERS.items():
        if find(name) is None:
            make(name)
            print(f"minari:{name}", flush=True)
    for robot, (width, environment) in POSITIONS.items():
        for kind in KINDS:
            source, name = f"regen/{robot}/{kind}-v0", f"positions/{robot}-{kind}-v0"
            if find(source) is not None and find(name) is None:
                select_columns(f"minari:{source}", range(width), name, EnvironmentInfo(environment))
                print(f"minari:{name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
