"""Return relabelling: returns-to-go raised to a learned value, so that good parts of bad episodes count as good.

After Q-learning Decision Transformer (Yamagata et al. 2023, arXiv 2209.03993, section 4): R_t = r_t + max(R_{t+1},
V(s_{t+1})), backwards in time. Differences: V is an expectile of the returns-to-go of similar states in the data, as
Implicit Q-learning's (arXiv 2110.06169) is of its Q, so that no action outside the data is evaluated; it is one step of
improvement on the behaviour policy, without bootstrapping (arXiv 2106.08909); it is undiscounted, with the time step as
an input, as returns-to-go end with the episode. Like all return conditioning it mistakes luck for skill in stochastic
environments, and as a maximum of estimates a label is biased upwards.

Shapes: N steps of all episodes, E episodes, O flat observation width, M rows of a batch.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from minrl.data.episode import Episodes, FloatArray
from minrl.data.task import Task
from minrl.models.encoders import Normalizer
from minrl.models.losses import expectile_loss
from minrl.runs.folder import RELABEL_SUMMARY, RETURNS_TO_GO
from minrl.runs.side_files import intact, read_json, write_json
from minrl.system.distributed import Group
from minrl.system.files import make_folder, replacing
from minrl.system.messages import faults_of

EXPECTILE = 0.7
STEPS, ROWS, WIDTH, RATE = 2000, 512, 128, 1e-3


def relabel(
    episodes: Episodes, held_out: Episodes | None, *, seed: int, out: Path, group: Group, resumed: bool
) -> tuple[Episodes, Episodes | None]:
    """Relabel the returns-to-go of episodes with a value that is learned from `episodes` alone.

    The labels are saved in the run's folder, from which a `resumed` run reads them.

    Raises:
        ValueError: if the labels in the folder belong to other data.
    """
    sets = [episodes] if held_out is None else [episodes, held_out]
    mine = _labels(sets, seed, out, resumed) if group.is_first else None
    cuts = np.cumsum([part.num_steps for part in sets])[:-1]
    labels = np.split(group.gather(mine)[0], cuts)
    found = [replace(part, returns_to_go=own) for part, own in zip(sets, labels, strict=True)]
    return found[0], found[1] if len(found) > 1 else None


def relabelled_task(episodes: Episodes) -> Task:
    """Return the task of relabelled episodes: its best return is the largest relabelled return of an episode."""
    return replace(Task.of(episodes), best_return=float(initial_returns(episodes).max()))


def initial_returns(episodes: Episodes) -> FloatArray:
    """Return the return-to-go at the start of each episode, (E,)."""
    labels: FloatArray = episodes.returns_to_go[episodes.offsets[:-1]]
    return labels


def report_rows(out: Path) -> list[tuple[str, str]]:
    """Return the rows of a run's report on its relabelled returns; none without relabelling."""
    found = intact(out / RELABEL_SUMMARY, lambda: read_json(out / RELABEL_SUMMARY, _check_summary), None)
    if found is None:
        return []
    raised = f"{found['share_raised']:.0%} of the steps, by {found['mean_raise']:.1f} on average"
    best = f"best return {found['best_return_relabelled']:.1f}"
    return [
        ("returns-to-go raised", f"{raised}; {best}"),
        ("value function", f"explains {found['explained_variance']:.0%} of the variance of returns-to-go"),
    ]


class Value(nn.Module):
    """Network that estimates the return-to-go from an observation and its time step.

    Args:
        episodes: that observations, times and returns are standardised by.
    """

    def __init__(self, episodes: Episodes) -> None:
        super().__init__()
        self.normalizer = Normalizer(episodes.observations.shape[1])
        self.normalizer.fit(episodes)
        self.longest = int(episodes.lengths.max())
        self.center = float(np.mean(episodes.returns_to_go, dtype=np.float64))
        self.scale = float(np.std(episodes.returns_to_go, dtype=np.float64)) or 1.0
        # Upper bound at each time step, against extrapolation: the best return-to-go of the data.
        self.most = np.full(self.longest, -np.inf)
        np.maximum.at(self.most, _times(episodes), episodes.returns_to_go)
        self.layers = nn.Sequential(
            nn.Linear(episodes.observations.shape[1] + 1, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, observation: Tensor, time: Tensor) -> Tensor:
        """Estimate standardised returns-to-go: (M, O), (M,) -> (M,)."""
        clock = (time / self.longest).unsqueeze(1)
        value: Tensor = self.layers(torch.cat([self.normalizer(observation), clock], dim=1)).squeeze(1)
        return value

    def learn(self, episodes: Episodes, seed: int) -> None:
        """Fit returns-to-go by expectile regression; the same seed gives the same weights."""
        adam = torch.optim.Adam(self.parameters(), lr=RATE, fused=True)
        random, times = np.random.default_rng(seed), _times(episodes)
        for step in tqdm(range(STEPS), desc="value", unit="step", leave=False, disable=None):
            adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            rows = random.integers(episodes.num_steps, size=ROWS)
            wanted = torch.from_numpy((episodes.returns_to_go[rows] - self.center) / self.scale)
            observations = torch.from_numpy(episodes.observations[rows])
            error = wanted.float() - self(observations, torch.from_numpy(times[rows]))
            adam.zero_grad(set_to_none=True)
            expectile_loss(error, EXPECTILE).mean().backward()
            adam.step()

    @torch.no_grad()
    def of(self, episodes: Episodes) -> npt.NDArray[np.float64]:
        """Return the value of every step in units of the rewards, (N,)."""
        times, parts = _times(episodes), []
        for begin in range(0, episodes.num_steps, _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            parts.append(self(torch.tensor(episodes.observations[rows]), torch.from_numpy(times[rows])))
        values = torch.cat(parts).double().numpy() * self.scale + self.center
        value: npt.NDArray[np.float64] = np.minimum(values, self.most[np.minimum(times, self.longest - 1)])
        return value


def raise_returns(episodes: Episodes, values: npt.NDArray[np.float64]) -> FloatArray:
    """Compute R_t = r_t + max(R_{t+1}, V_{t+1}) within each episode, R and V zero after its end: (N,) values ->
    (N,).
    """
    result = np.empty(episodes.num_steps, dtype=np.float32)
    rewards = np.asarray(episodes.rewards, dtype=np.float64)
    for start, stop in zip(episodes.offsets[:-1].tolist(), episodes.offsets[1:].tolist(), strict=True):
        # R_t is the largest, over the steps k from t on, of what is earned until k and the value after it.
        earned = np.cumsum(rewards[start:stop])
        whole = earned + np.append(values[start + 1 : stop], 0.0)
        best = np.maximum.accumulate(whole[::-1])[::-1]
        result[start:stop] = best - earned + rewards[start:stop]
    return result


def _labels(sets: Sequence[Episodes], seed: int, out: Path, resumed: bool) -> FloatArray:
    """Read the labels of all sets, end to end, from the run's folder, or learn and write them."""
    path = out / RETURNS_TO_GO
    if resumed and path.is_file() and (kept := intact(path, lambda: _read_labels(out), None)) is not None:
        if kept.shape != (sum(part.num_steps for part in sets),):
            raise ValueError(f"{path} holds labels of {kept.size} steps, {sets[0].name} has other data now")
        return kept
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value = Value(sets[0])
    value.learn(sets[0], seed)
    labels = np.concatenate([raise_returns(part, value.of(part)) for part in sets])
    make_folder(out)
    summary = _quality(sets[0], value, labels) | {"sha256": _digest(labels)}
    write_json(out / RELABEL_SUMMARY, summary)
    content = io.BytesIO()
    np.save(content, labels)
    with replacing(path) as temporary:
        # np.save into a file ignores the error of its last write: a full disk leaves a file cut short.
        temporary.write_bytes(content.getvalue())
    return labels


def _read_labels(out: Path) -> FloatArray:
    """Read the saved labels; raise ValueError if they are damaged."""
    with faults_of(str(out / RETURNS_TO_GO)):  # NumPy evaluates the header, of which damage may raise any error
        labels = np.load(out / RETURNS_TO_GO)
    summary = read_json(out / RELABEL_SUMMARY, _check_summary)
    if summary is not None and summary.get("sha256") not in (None, _digest(labels)):
        raise ValueError(f"its labels are not those of {RELABEL_SUMMARY}")
    return np.asarray(labels, dtype=np.float32)


def _digest(labels: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(labels, dtype=np.float32).tobytes()).hexdigest()


def _check_summary(found: Any) -> None:
    for name in ("share_raised", "mean_raise", "best_return_relabelled", "explained_variance"):
        float(found[name])


def _quality(episodes: Episodes, value: Value, labels: FloatArray) -> dict[str, Any]:
    """Summarise the value's fit and the relabelled returns of the episodes that it was learned from."""
    plain = np.asarray(episodes.returns_to_go, dtype=np.float64)
    more = labels[: episodes.num_steps] - plain
    lifted = more > 1e-3 * value.scale
    starts = episodes.offsets[:-1]
    return {
        "expectile": EXPECTILE,
        "explained_variance": 1 - float(np.var(plain - value.of(episodes))) / value.scale**2,
        "share_raised": float(lifted.mean()),
        "mean_raise": float(more[lifted].mean()) if lifted.any() else 0.0,
        "mean_return": float(plain[starts].mean()),
        "mean_return_relabelled": float(labels[starts].mean()),
        "best_return": float(plain[starts].max()),
        "best_return_relabelled": float(labels[starts].max()),
    }


def _times(episodes: Episodes) -> npt.NDArray[np.int64]:
    """Return the time step of each row within its episode, (N,)."""
    return np.arange(episodes.num_steps) - np.repeat(episodes.offsets[:-1], episodes.lengths)


_CHUNK = 1 << 14  # steps of a forward pass
