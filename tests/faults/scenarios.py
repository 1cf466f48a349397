"""Tiny runs that are killed, and the commands that begin them and go on with them."""

from dataclasses import dataclass
from pathlib import Path

from stable_baselines3 import PPO

from minrl.runs.folder import LAST_CHECKPOINT

CELLS = ("mingru", "minlstm", "gru", "lstm", "mamba", "transformer", "s5", "rwkv6")
_OFFLINE = {
    "width": 8, "depth": 1, "batch-size": 2, "length": 16, "steps": 24, "log-every": 5, "checkpoint-every": 7,
    "evaluate-every": 10, "evaluate-episodes": 2, "evaluate-max-steps": 20,
}  # fmt: skip
_PPO = {
    "env": "CartPole-v1", "width": 8, "depth": 1, "n-envs": 2, "vectorization": "sync", "n-steps": 8, "batch-size": 8,
    "n-epochs": 1, "decay": "linear", "steps": 128, "log-every": 2, "checkpoint-every": 32, "evaluate-every": 48,
    "evaluate-episodes": 2, "evaluate-max-steps": 20,
}  # fmt: skip
_MASKS = _PPO | {"env": "minrl/MaskedRecall-v0"}
_CRITIC = _PPO | {
    "env": "minrl/CartPoleNoVel-v1", "env-kwargs": "state=true", "critic-keys": "state", "critic": "cell=none",
}  # fmt: skip
_SAC = {
    "env": "minrl/PendulumNoVel-v1", "width": 8, "depth": 1, "n-envs": 2, "train-freq": 8, "gradient-steps": 2,
    "batch-size": 32, "segment-length": 8, "buffer-size": 200, "learning-starts": 16, "decay": "linear", "steps": 128,
    "log-every": 2, "checkpoint-every": 32, "evaluate-every": 48, "evaluate-episodes": 2, "evaluate-max-steps": 20,
}  # fmt: skip
# Agents that learn in environments, by the kind of scenario.
_ONLINE = {"ppo": ("ppo", _PPO), "masks": ("ppo", _MASKS), "critic": ("ppo", _CRITIC), "sac": ("sac", _SAC)}
_GRID = """title = "killed"
cells = [{cells}]
seeds = 1
[tasks.data]
data = "{data}"
[tasks.world]
env = "CartPole-v1"
low = 0.0
high = 500.0
[offline.decision]
width = 8
depth = 1
[offline.train]
steps = 12
batch_size = 2
length = 16
log_every = 3
checkpoint_every = 5
evaluate_every = 6
evaluate_episodes = 2
evaluate_max_steps = 20
threads = {threads}
[online.ppo]
width = 8
depth = 1
[online.train]
n_envs = 2
vectorization = "sync"
n_steps = 8
batch_size = 8
n_epochs = 1
steps = 64
log_every = 2
checkpoint_every = 32
evaluate_every = 48
evaluate_episodes = 2
evaluate_max_steps = 20
threads = {threads}
"""


def teacher_of(folder: Path) -> Path:
    """Return a teacher for CartPole, written where there is none."""
    file = folder / "teacher.zip"
    if not file.exists():
        PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, seed=0, device="cpu").save(file)
    return file


@dataclass(frozen=True)
class Scenario:
    """Kind of training, with a cell and a number of threads."""

    # "decision", "clone", "relabel" (returns of the data replaced), "ppo", "masks" (of its actions), "critic" (a
    # privileged one), "sac", "distill" or "compare"
    kind: str
    cell: str
    threads: int

    @property
    def name(self) -> str:
        """Return a name for files and tables."""
        return f"{self.kind}-{self.cell}-{self.threads}"

    def words(self, out: Path, data: str) -> list[str]:
        """Return the command that begins the run in `out`, or goes on with it."""
        if self.kind == "compare":
            other = "gru" if self.cell != "gru" else "lstm"
            grid = out.with_name(f"{self.name}.toml")
            text = _GRID.format(cells=f'"{self.cell}", "{other}"', data=data, threads=self.threads)
            grid.write_text(text, encoding="utf-8")
            return ["compare", str(grid), "--out", str(out)]
        if (out / LAST_CHECKPOINT).exists():
            return ["train", "--resume", str(out)]
        agent = "decision" if self.kind == "relabel" else self.kind
        if self.kind in _ONLINE:
            agent, settings = _ONLINE[self.kind]
            own = ["--exact-resume", "--no-config"]
            own += [] if self.kind == "masks" else ["--normalize-observations"]
        elif self.kind == "distill":
            own, settings = ["--exact-resume", "--no-config", "--teacher", str(teacher_of(out.parent.parent))], _PPO
        else:
            own, settings = ["--data", data], _OFFLINE
            own += ["--target-sweep", "all", "--average", "0.9", "--choose-target"] if self.kind == "decision" else []
            own += ["--relabel-returns"] if self.kind == "relabel" else []
            own += ["--validation", "0.2", "--validate-every", "8"] if self.kind == "clone" else []
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [
            "train",
            agent,
            "--out",
            str(out),
            "--cell",
            self.cell,
            "--threads",
            str(self.threads),
            *own,
            *flags,
        ]
