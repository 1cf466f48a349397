"""Search for the best target return, by episodes of other seeds than the evaluation's."""

from pathlib import Path
from typing import Any

import numpy as np

from minrl.agent import Actor, TargetReturnAgent
from minrl.data.episode import Episodes
from minrl.runs.folder import TARGET_CHOICE
from minrl.runs.side_files import intact, read_json, write_json
from minrl.training.config import TrainConfig
from minrl.training.relabel_returns import initial_returns

# Above the seeds of all evaluations; twice it is the first seed that a signed 32-bit integer cannot hold.
SEED_OFFSET = 2**30
# From the mean return of the data (0) to its best (1), and beyond if the agent accepts it.
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class TargetSearch:
    """Grid search over a few target returns, of which the agent gets the best.

    Args:
        agent: whose target return is set.
        episodes: that it is trained on.
        config: of its training, for seed and number of episodes.
        out: the run's folder, for the result.

    Raises:
        ValueError: if the agent takes no target return or has no environment, or the seed is so large that the search
            could use an evaluation's episodes.
    """

    def __init__(self, agent: Actor, episodes: Episodes, config: TrainConfig, out: Path) -> None:
        if agent.target_return is None or not isinstance(agent, TargetReturnAgent):
            raise ValueError(f"choose_target: the {agent.name} agent with these settings takes no target return")
        if agent.task.environment is None:
            raise ValueError(f"choose_target evaluates the agent, and {agent.task.dataset} names no environment")
        if config.first_episode + config.evaluate_episodes > SEED_OFFSET:
            most = SEED_OFFSET // config.evaluate_episodes - 1
            raise ValueError(f"choose_target: with {config.evaluate_episodes} episodes seed must be at most {most}")
        self.agent, self.config, self.out = agent, config, out
        self.candidates = candidate_targets(episodes, agent.max_target_return)

    def run(self) -> None:
        """Evaluate each candidate for as many episodes as an evaluation has; give the agent the best.

        Run seed s plays episodes `SEED_OFFSET` + s n to `SEED_OFFSET` + (s + 1) n - 1, with n episodes an evaluation:
        runs of other seeds play other episodes, as in their evaluations.
        """
        assert isinstance(self.agent, TargetReturnAgent)
        played = self.config.evaluate(self.agent, self.candidates, SEED_OFFSET)
        best = max(played, key=lambda result: result.mean_return)
        assert best.target_return is not None
        self.agent.set_target_return(best.target_return)
        found = {"chosen": best.target_return, "candidates": [result.to_dict() for result in played]}
        write_json(self.out / TARGET_CHOICE, found)


def candidate_targets(episodes: Episodes, most: float) -> list[float]:
    """Return the target returns to try, ascending: from the data's mean to its best, beyond it where `most` allows."""
    labels = initial_returns(episodes)
    mean, best = float(labels.mean(dtype=np.float64)), float(labels.max())
    values = [float(np.float32(mean + place * (best - mean))) for place in PLACES]
    return sorted({value for value in values if value <= most} | {min(best, most)})


def report_rows(out: Path) -> list[tuple[str, str]]:
    """Return the rows of a run's report on the search; none without one."""
    found = intact(out / TARGET_CHOICE, lambda: read_json(out / TARGET_CHOICE, _check), None)
    if found is None:
        return []
    rows = found["candidates"]
    asked = ", ".join(f"{row['target_return']:.0f} ({row['mean_return']:.0f})" for row in rows)
    seeds = rows[0]["seeds"]
    place = f"{len(seeds)} episodes each, seeds {seeds[0]} to {seeds[-1]}, none of them the evaluation's"
    return [("targets tried (return)", asked), ("target chosen", f"{found['chosen']:.1f}: best mean of {place}")]


def _check(found: Any) -> None:
    for row in found["candidates"]:
        float(row["target_return"] + row["mean_return"] + row["seeds"][0] + found["chosen"])
