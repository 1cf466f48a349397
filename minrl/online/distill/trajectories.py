"""Labelled trajectories of all rollouts so far, from which whole segments are drawn.

Dataset aggregation: Ross, Gordon and Bagnell 2011, "A Reduction of Imitation Learning and Structured Prediction to
No-Regret Online Learning" (DAgger), arXiv 1011.0686, algorithm 3.1.

Shapes: E environments, L steps of a segment, R segments in the order of time (those of all environments at one time
side by side), S width of the state that acting needs, W action width, K parameters of a distribution.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minrl.online.backbone_policy import BackbonePolicy
from minrl.online.inputs.segments import Segments
from minrl.online.rollout import SegmentBuffer

_SEEN = "observations/"


class Trajectories:
    """Segments with the teacher's labels.

    Args:
        capacity: steps that are kept; the newest rollout is always.
        n_envs: E.
        length: L.

    Attributes:
        parts: tensors (R, L, …) by name, and "state" (R, S).
    """

    def __init__(self, capacity: int, n_envs: int, length: int) -> None:
        self.capacity, self.n_envs, self.length = capacity, n_envs, length
        self.parts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Return R."""
        return len(self.parts["reset"]) if self.parts else 0

    def add(self, buffer: SegmentBuffer, policy: BackbonePolicy) -> None:
        """Add a rollout, whose `reference` (T, E, …) holds the labels, and drop the oldest beyond the capacity."""
        (group,) = buffer.groups()
        assert group.reference is not None
        seen = policy.visible(group.observations)
        new = {_SEEN + name: x for name, x in seen.items()} if isinstance(seen, dict) else {_SEEN: seen}
        counts = torch.ones_like(group.reset) if group.counts is None else group.counts
        new |= {"previous": group.previous, "state": group.state[:, : policy.acting_size], "reset": group.reset}
        new |= {"labels": group.reference, "counts": counts}
        if group.masks is not None:
            new["masks"] = group.masks
        if self.parts:
            new = {name: torch.cat([self.parts[name], x]) for name, x in new.items()}
        rollout = len(group.reset)
        kept = max(rollout, self.capacity // self.length // rollout * rollout)
        # New tensors: those of an earlier `saved` do not change.
        self.parts = {name: x[-kept:].clone() if len(x) > kept else x for name, x in new.items()}

    def rows(self, index: Any) -> tuple[Segments, Tensor]:
        """Return segments and their labels (N, …) at the steps that count."""
        parts = {name: x[index] for name, x in self.parts.items()}
        seen = {name.removeprefix(_SEEN): x for name, x in parts.items() if name.startswith(_SEEN)}
        counts = parts["counts"].flatten()
        segments = Segments(
            observations=seen.get("", seen),
            previous=parts["previous"],
            state=parts["state"],
            reset=parts["reset"],
            kept=None if bool(counts.all()) else counts.nonzero().flatten(),
            masks=parts.get("masks"),
        )
        return segments, segments.of_valid(parts["labels"])

    def draw(self, count: int) -> tuple[Segments, Tensor]:
        """Draw `count` segments uniformly, as `rows` returns them."""
        drawn = np.random.randint(len(self), size=count)  # noqa: NPY002, the generator SB3 seeds
        return self.rows(torch.from_numpy(drawn).to(self.parts["reset"].device))

    @torch.no_grad()
    def refresh(self, policy: BackbonePolicy) -> None:
        """Compute the states at the starts of all segments but the oldest with the current weights."""
        training, states = policy.training, [self.parts["state"][: self.n_envs]]
        policy.set_training_mode(False)  # as while acting, without dropout
        for first in range(0, len(self) - self.n_envs, self.n_envs):
            segments, _ = self.rows(slice(first, first + self.n_envs))
            states.append(policy.scan_actor(segments._replace(state=states[-1]))[1])
        policy.set_training_mode(training)
        self.parts = {**self.parts, "state": torch.cat(states)}

    def saved(self) -> dict[str, Tensor]:
        """Return what is stored."""
        return dict(self.parts)

    def restore(self, saved: dict[str, Tensor], state_size: int) -> None:
        """Restore `saved` of a policy with hidden states of `state_size`; raise ValueError if it does not fit."""
        count = len(saved["reset"]) if saved else 0
        for name, x in saved.items():
            shape = (count, state_size) if name == "state" else (count, self.length)
            if x.shape[: len(shape)] != shape or not x.isfinite().all():
                raise ValueError(f"its trajectories hold other {name}: {tuple(x.shape)}, or values that are not finite")
        if count % self.n_envs:
            raise ValueError(f"its trajectories are not those of {self.n_envs} environments")
        self.parts = dict(saved)
