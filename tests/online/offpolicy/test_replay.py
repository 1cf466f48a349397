"""Rows of the replay buffer: order, episode ends, states and memory of a ring.

Observations count the steps of an environment and carry its number, so that each sampled step tells where it is from.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.online.offpolicy.replay import Rows, SequenceBuffer
from minrl.online.offpolicy.replay_file import load_replay, save_replay

BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)
SEEN = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ENVS = 3


def filled(steps: int, capacity: int, seed: int = 0, **options: Any) -> tuple[SequenceBuffer, np.random.Generator]:
    """Return a buffer after `steps` of ENVS environments, with observations (environment, episode, step)."""
    buffer = SequenceBuffer(
        ENVS * capacity, SEEN, BOX, "cpu", ENVS, **{"segment_length": 8, "row_state": "zero"} | options
    )
    random = np.random.default_rng(seed)
    episode, step = np.zeros(ENVS), np.zeros(ENVS)
    for _ in range(steps):
        done = random.random(ENVS) < 0.2
        infos = [{"TimeLimit.truncated": bool(d and e % 2)} for d, e in zip(done, episode, strict=True)]
        now, then = (np.stack([np.arange(ENVS), episode, step + more], axis=1) for more in (0, 1))
        if buffer.stores_states:
            buffer.entering = now + 0.5
        # Actions and rewards name their step as well.
        buffer.add(now, then, (episode + step / 1000)[:, None], 100 * episode + step, done, infos)
        episode, step = episode + done, np.where(done, 0, step + 1)
    return buffer, random


def check(rows: Rows) -> None:
    """Assert that rows are pieces of streams in their order, with flags, actions and rewards of their steps."""
    stream, episode, step = rows.observations.unbind(-1)  # type: ignore[union-attr]
    at = slice(rows.burn_in, None)
    stream, episode, step, reset, final, terminal, last = (
        x[:, at] for x in (stream, episode, step, rows.reset, rows.final, rows.terminal, rows.last)
    )
    assert torch.equal(stream, stream[:, :1].expand_as(stream))
    same = ~reset[:, 1:]
    assert torch.equal(reset, step == 0)
    assert torch.equal((episode[:, 1:] - episode[:, :-1])[same], torch.zeros(int(same.sum())))
    assert torch.equal((step[:, 1:] - step[:, :-1])[same], torch.ones(int(same.sum())))
    assert (episode[:, 1:] - episode[:, :-1] == 1)[~same].all()
    assert final[:, :-1][~same].all(), "an episode ends with the observation that no action follows"
    assert torch.equal(terminal, final & (episode % 2 == 0)), "a time limit is no end"
    assert torch.equal(last[:, :-1], final[:, :-1])
    assert last[:, -1].all()
    assert torch.equal(rows.rewards[:, at][~final], (100 * episode + step)[~final])
    torch.testing.assert_close(rows.actions[:, at, 0][~final], (episode + step / 1000)[~final])
    inside = ~reset
    torch.testing.assert_close(rows.previous_rewards[:, at][inside], (100 * episode + step - 1)[inside])


@pytest.mark.parametrize("steps", [10, 45, 400])  # less than a ring, about one, many
def test_rows_are_pieces_of_streams(steps: int) -> None:
    buffer, _ = filled(steps, 48)
    np.random.seed(0)  # noqa: NPY002
    seen = set()
    for _ in range(60):
        rows = buffer.sample(32)
        assert rows.reset.shape == (4, 8)
        check(rows)
        seen |= {tuple(x) for x in rows.observations.flatten(0, 1).tolist()}  # type: ignore[union-attr]
    assert len(seen) > 0.9 * buffer.size()  # every step is drawn, the newest ones too


@pytest.mark.parametrize("steps", [30, 400])
@pytest.mark.parametrize("row_state", ["stored", "burn_in", "recomputed"])
def test_states_of_rows(steps: int, row_state: str) -> None:
    buffer, _ = filled(steps, 48, row_state=row_state, burn_in=3 if row_state == "burn_in" else 0)
    np.random.seed(0)  # noqa: NPY002
    for _ in range(30):
        rows = buffer.sample(32)
        check(rows)
        state, begun = rows.state, rows.observations[:, 0]  # type: ignore[index]
        if row_state == "recomputed":
            assert state.numel() == 0
            # Each row opens its episode somewhere before the steps that count, unless the ring has lost that.
            opened = rows.reset[:, : rows.burn_in + 1].any(1)
            assert opened.all() or steps > 100
            continue
        known = (state != 0).any(1)
        # What entered a step is stored with it; a last observation has none, and nothing is learned from it alone.
        torch.testing.assert_close(state[known], begun[known] + 0.5)
        assert (known | rows.final[:, 0] | rows.reset[:, 0]).all()


def test_a_reset_of_the_environments_cuts_an_episode() -> None:
    buffer, _ = filled(0, 48, segment_length=4)
    for at in range(6):
        seen = np.full((ENVS, 3), at, np.float32)
        buffer.add(seen, seen + 1, np.zeros((ENVS, 1)), np.ones(ENVS), np.zeros(ENVS, bool), [{}] * ENVS)
        if at == 2:
            buffer.begin()
    rows = buffer.sample(400)
    step = rows.observations[..., 0]  # type: ignore[call-overload]
    assert torch.equal(rows.reset, (step == 0) | (step == 3))
    assert torch.equal(rows.last[:, :-1], (step == 2)[:, :-1]), "what followed is unknown: it only bootstraps"


def test_saved_buffers_sample_alike(tmp_path: Any) -> None:
    buffer, _ = filled(400, 48, row_state="stored")
    other, _ = filled(3, 48, row_state="stored")
    other.restore(buffer.saved(), buffer.arrays["states"].shape[2])
    for _ in range(5):
        for b in (buffer, other):
            np.random.seed(1)  # noqa: NPY002
            b.drawn = b.sample(32)  # type: ignore[attr-defined]
        for x, y in zip(buffer.drawn, other.drawn, strict=True):  # type: ignore[attr-defined]
            assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))
    smaller, _ = filled(3, 24, row_state="stored")
    with pytest.raises(ValueError, match="room for 24"):
        smaller.restore(buffer.saved(), 0)


def test_foreign_content_is_refused(tmp_path: Any) -> None:
    """Change one part of a saved buffer to what a stranger's file, or damage, may put there."""
    choices = spaces.Discrete(2, start=1)
    buffer, other = (SequenceBuffer(96, choices, spaces.Discrete(3), "cpu", 2, segment_length=8) for _ in range(2))
    buffer.entering = np.ones((2, 5))
    for at in range(20):
        buffer.add(np.ones(2), np.ones(2), np.full((2, 1), at % 3), np.ones(2), np.zeros(2, bool), [{}] * 2)
    save_replay(buffer, tmp_path / "replay")
    file = tmp_path / "replay.pkl"
    load_replay(other, tmp_path / "replay", 5)
    assert other.saved()["heads"].tolist() == [20, 20]
    for state_size, words in ((4, "holds other states"), (6, "holds other states")):
        with pytest.raises(ValueError, match=words):
            load_replay(other, file, state_size)
    changes: dict[tuple[str, ...], Any] = {
        ("heads",): torch.full((2,), 20.0), ("ages",): torch.full((2,), -1, dtype=torch.int32),
        ("sizes",): torch.full((2,), 19), ("arrays", "actions"): torch.full((2, 20, 1), 3),
        ("arrays", "observations/"): torch.zeros(2, 20, dtype=torch.int64),
        ("arrays", "rewards"): torch.full((2, 20), torch.nan), ("arrays", "states"): torch.zeros(2, 10, 0),
        ("arrays", "final"): None, ("arrays",): [1], ("heads", "x"): 3,
    }  # fmt: skip
    for place, value in changes.items():
        content = buffer.saved()
        parent = content["arrays"] if len(place) == 2 and place[0] == "arrays" else content
        parent[place[-1]] = value
        if place == ("heads", "x"):
            content["heads"] = {}
        torch.save(content, file)
        with pytest.raises(ValueError, match=r"replay\.pkl holds no replay buffer of recurrent SAC: the replay buffer"):
            load_replay(other, file, 5)
    save_replay(buffer, file)
    flipped = bytearray(file.read_bytes())
    flipped[flipped.index(buffer.arrays["rewards"][0, :20].tobytes()) + 2] ^= 16
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        load_replay(other, file, 5)
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(ValueError, match="no regular file"):
        load_replay(other, tmp_path / "pipe.pkl", 5)


def test_fillers_are_left_out() -> None:
    buffer, _ = filled(0, 48)
    ones = np.ones((ENVS, 3), np.float32)
    buffer.add(ones, ones, np.zeros((ENVS, 1)), np.zeros(ENVS), np.ones(ENVS, bool), [{"filler": True}] * ENVS)
    assert buffer.size() == 0
    with pytest.raises(ValueError, match="no two observations"):
        buffer.sample(32)
