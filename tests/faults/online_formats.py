"""Runs of agents that learn in environments, a replay buffer, and relabelled returns: resumed, or loaded."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from formats import SMALL, STEPS, Reader
from stable_baselines3.common.env_util import make_vec_env

from minrl.agents.__main__ import main
from minrl.agents.sac import RecurrentSAC
from minrl.online.offpolicy.replay_file import load_replay
from minrl.runs.folder import RELABEL_SUMMARY, RETURNS_TO_GO
from minrl.runs.side_files import write_json
from minrl.training import relabel_returns

_TINY = "--no-config --exact-resume --n-envs 2 --vectorization sync --evaluate-every 0 --width 8 --depth 1 --threads 1"
_PPO = f"ppo --env CartPole-v1 --normalize-observations --n-steps 8 --batch-size 8 --n-epochs 1 --steps 32 {_TINY}"
_SAC = (
    "sac --env Pendulum-v1 --normalize-observations --train-freq 8 --gradient-steps 1 --batch-size 16 "
    f"--segment-length 4 --buffer-size 64 --learning-starts 16 --steps 32 {_TINY}"
)


def _trained(words: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        assert main(["train", *words.split(), "--out", str(folder / "run")]) == 0

    return make


def _learn_on(folder: Path) -> list[str]:
    """Return the command that makes one more update, which reads what was restored."""
    return ["train", "--resume", str(folder / "run"), "--steps", "48"]


def _files(folder: Path) -> list[Path]:
    return [folder / "run" / name for name in SMALL if (folder / "run" / name).exists()]


@functools.cache
def _model() -> RecurrentSAC:
    options = {"width": 8, "depth": 1}
    world = make_vec_env("Pendulum-v1", 2, seed=0)
    return RecurrentSAC(
        "MlpPolicy",
        world,
        buffer_size=512,
        batch_size=8,
        learning_starts=8,
        seed=0,
        device="cpu",
        policy_kwargs=options,
    )


def _replay(folder: Path) -> None:
    model = _model()
    model.learn(64)
    model.save_replay_buffer(folder / "replay.pt")


def _load_replay(folder: Path) -> None:
    """Load a replay buffer and draw rows."""
    buffer = _model().replay_buffer
    buffer.reset()
    load_replay(buffer, folder / "replay.pt", _model().policy.stored_size)
    buffer.sample(64)


def _relabelled(folder: Path) -> None:
    labels = np.random.default_rng(0).normal(size=STEPS).astype(np.float32)
    np.save(folder / RETURNS_TO_GO, labels)
    numbers = dict.fromkeys(("share_raised", "mean_raise", "best_return_relabelled", "explained_variance"), 0.5)
    write_json(folder / RELABEL_SUMMARY, numbers | {"sha256": relabel_returns._digest(labels)})


def _read_relabelled(folder: Path) -> None:
    """Read the labels as a run that goes on does, and the summary as its report does."""
    relabel_returns.report_rows(folder)
    if (folder / RETURNS_TO_GO).is_file():
        relabel_returns._read_labels(folder)


ONLINE: dict[str, Reader] = {
    "PPO run": Reader(_trained(_PPO), _files, _learn_on),
    "SAC run": Reader(_trained(_SAC), _files, _learn_on),
    "replay": Reader(_replay, lambda f: [f / "replay.pt"], read=_load_replay),
    "relabelled returns": Reader(
        _relabelled, lambda f: [f / RETURNS_TO_GO, f / RELABEL_SUMMARY], read=_read_relabelled
    ),
}
