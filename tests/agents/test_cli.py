"""The command line: help, one line for every mistake, and JSON as the only output."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fresh
import pytest
from forked import minrl
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import COMMANDS, main
from minrl.cells import CELLS

__all__ = ["cartpole", "own_folders"]

TRAIN = ["train", "decision", *map(str, TINY), "--steps", "3", "--evaluate-every", "0"]
ON_DATA = [*TRAIN, "--data", "D", "--out", "r"]
PPO = ["train", "ppo", "--width", "8", "--depth", "1", "--n-envs", "2", "--n-steps", "8", "--steps", "16", "--out", "r"]


@pytest.fixture
def run(cartpole: str, tmp_path: Path) -> Path:
    """Train a run to its end."""
    assert main([*TRAIN, "--data", cartpole, "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def help_of(*words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    # Commands that users paste are not wrapped.
    assert max(map(len, text.splitlines())) <= 100
    return text


def test_help_lists_first_steps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    top = help_of(capsys=capsys, monkeypatch=monkeypatch)
    assert all(f"\n    {name} " in top for name in COMMANDS)
    assert "minrl train decision --data minari:" in top
    for command in COMMANDS:
        assert f"usage: minrl {command}" in help_of(command, capsys=capsys, monkeypatch=monkeypatch)
    decision = help_of("train", "decision", capsys=capsys, monkeypatch=monkeypatch)
    assert "usage: minrl train decision --data NAME --out RUN" in decision
    assert all(cell in decision for cell in CELLS)
    assert "(default: 10000)" in decision
    assert "10 % BC" in help_of("train", "clone", capsys=capsys, monkeypatch=monkeypatch)
    ppo = help_of("train", "ppo", capsys=capsys, monkeypatch=monkeypatch)
    assert "usage: minrl train ppo --env ID --out RUN" in ppo
    assert all(f"\n{group}" in ppo for group in ("environment:", "run:", "policy:", "algorithm, names as in"))
    assert "minrl train ppo --env" in help_of("train", capsys=capsys, monkeypatch=monkeypatch)
    for action in ("list", "info", "import"):
        assert f"usage: minrl data {action}" in help_of("data", action, capsys=capsys, monkeypatch=monkeypatch)


def test_help_does_not_load_torch() -> None:
    program = "import sys; sys.argv = ['minrl', '--help']\nfrom minrl.agents.__main__ import main\n"
    program += "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_importing_an_agent_leaves_the_compiler_of_torch_alone() -> None:
    """Leave its import, which takes longer than all others, to training, whose optimizers need it."""
    program = "import sys, minrl.agents.decision, minrl.agents.ppo; print('torch._dynamo' in sys.modules)"
    assert fresh.run(program, check=True).stdout == "False\n"


MISTAKES: dict[str, tuple[list[str], str]] = {
    "command": (["trian"], 'unknown command "trian"; did you mean "train"?'),
    "no command": ([], "the following arguments are required: COMMAND"),
    "agent": (["train", "decison", "--data", "x"], 'unknown agent "decison"; did you mean "decision"?'),
    "no agent": (["train"], "no agent: minrl train clone|decision|offline_sac --data NAME --out RUN"),
    "flag": ([*TRAIN, "--widht", "3"], 'unknown flag --widht; did you mean "--width"?'),
    "flag with =": ([*TRAIN, "--learning_rate=3"], 'unknown flag --learning_rate; did you mean "--learning-rate"?'),
    "half a flag": ([*TRAIN, "--step", "3"], 'unknown flag --step; did you mean "--steps"?'),
    "word": (["evaluate", "a", "b"], 'unexpected argument "b"'),
    "number": ([*TRAIN, "--steps", "ten"], "argument --steps: invalid int value: 'ten'"),
    "fraction": ([*TRAIN, "--steps", "1e4"], "argument --steps: invalid int value: '1e4'"),
    "negative": ([*ON_DATA, "--steps", "-3"], "steps must be at least 1, got -3"),
    "choice": ([*ON_DATA, "--decay", "cosin"], 'unknown value "cosin"; did you mean "cosine"?'),
    "no data": ([*TRAIN, "--out", "r"], "no data set: give --data minari:NAME, d4rl:NAME or hdf5:FILE"),
    "no folder": ([*TRAIN, "--data", "D"], "no folder for the run: minrl"),
    "data": ([*TRAIN, "--data", "minari:test/cartpol-v0", "--out", "r"], 'did you mean "test/cartpole-v0"?'),
    "kind of data": ([*TRAIN, "--data", "minary:x", "--out", "r"], "is none of minari:NAME, d4rl:NAME or hdf5:FILE"),
    "file": ([*TRAIN, "--data", "hdf5:nothing.hdf5", "--out", "r"], "nothing.hdf5"),
    "cell": ([*ON_DATA, "--cell", "mingro"], 'unknown cell "mingro"; did you mean "mingru"?'),
    "cell option": ([*ON_DATA, "--cell-options", "expnd=2"], 'did you mean "expand"?'),
    "cell option's value": ([*ON_DATA, "--cell-options", "expand=big"], "expand must be of type float"),
    "no pair": ([*ON_DATA, "--cell-options", "expand"], '"expand" should read KEY=VALUE'),
    "width": ([*ON_DATA, "--width", "0"], "width must be at least 1, got 0"),
    "mlp": ([*ON_DATA, "--mlp", "-1"], "mlp must be at least 0, got -1.0"),
    "dropout": ([*ON_DATA, "--dropout", "2"], "dropout"),
    "config": ([*TRAIN, "--out", "r", "--config", "none.toml"], "config none.toml cannot be read: no such file"),
    "resume and agent": (["train", "--resume", "x", "decision"], "a resumed run keeps its settings"),
    "run": (["evaluate", "runs/none"], "no checkpoint at runs/none"),
    "data action": (["data", "lst"], 'unknown action "lst"; did you mean "list"?'),
    "no data action": (["data"], "required: ACTION"),
    "data name": (["data", "info", "nothing"], "is none of minari:NAME, d4rl:NAME or hdf5:FILE"),
    "imported file": (["data", "import", "nothing.hdf5"], "nothing.hdf5"),
    "no policy": (["collect", "--env", "CartPole-v1"], "--policy is missing"),
    "no environment": (PPO, "no environment: minrl train ppo --env ID --out RUN"),
    "no folder for ppo": (PPO[:-2], "no folder for the run: minrl train ppo --env ID --out RUN"),
    "environment": ([*PPO, "--env", "CartPol-v1"], "Did you mean: `CartPole`?"),
    "its option": ([*PPO, "--env", "CartPole-v1", "--env-kwargs", "gravty=3"], "unexpected keyword argument 'gravty'"),
    "cell of ppo": (
        [*PPO, "--env", "CartPole-v1", "--cell", "mingro"],
        'unknown cell "mingro"; did you mean "mingru"?',
    ),
    "vectorisation": ([*PPO, "--env", "Acrobot-v1", "--vectorization", "native"], "its id is registered without one"),
    "picture": ([*PPO, "--env", "minrl/RepeatFirst-v0", "--video"], "cannot be rendered; its render modes: none"),
    "GPU": ([*PPO, "--env", "CartPole-v1", "--device", "gpu"], 'unknown device "gpu"; choose cpu, cuda or auto'),
    "flag of ppo": ([*PPO, "--n-env", "3"], 'unknown flag --n-env; did you mean "--n-envs"?'),
    "policy": (["collect", "--policy", "randm", "--env", "CartPole-v1", "--episodes", "1", "--out", "a-v0"], "randm"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line(
    mistake: str, cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = MISTAKES[mistake]
    try:
        code: Any = main([cartpole if word == "D" else word for word in words])
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert error.startswith("minrl: ")
    assert "\n" not in error
    assert message in error
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


def test_an_unknown_environment(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--policy", "random", "--env", "CartPol-v1", "--episodes", "1", "--out", "test/a-v0"]
    assert main(["collect", *flags]) == 2
    # Gymnasium-Robotics may print lines before it.
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("minrl: environment CartPol-v1 cannot be made: NameNotFound")
    assert "CartPole" in error[-1]
    assert not any("Traceback" in line for line in error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstepps = 3", '[train] of c.toml has no key "stepps"; did you mean "steps"?'),
        ("[trian]\nsteps = 3", 'config c.toml has an unknown table "trian"; did you mean "train"?'),
        ("steps = 3", 'config c.toml has an unknown table "steps"'),
        ('[train]\nsteps = "3"', "steps in [train] of c.toml must be of type int, got '3'"),
        ("[train]\nsteps = 3.5", "must be of type int, got 3.5"),
        ("[train]\ncarry = 1", "must be of type bool, got 1"),
        ('[decision]\ntokens = "tripel"', 'unknown value "tripel"; did you mean "triple"?'),
        ("[train", "config c.toml is not TOML"),
        ("\xff", "config c.toml is not TOML"),
    ],
)
def test_mistakes_in_a_config(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_bytes(text.encode("latin-1"))
    assert main([*TRAIN, "--out", "r", "--config", "c.toml"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_flags_go_over_the_config(cartpole: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        f'[decision]\nwidth = 24\ndepth = 1\n[train]\ndata = "{cartpole}"\nsteps = 9\nevaluate_every = 0\n'
    )
    flags = ["--steps", "2", "--batch-size", "2", "--length", "8", "--threads", "1"]
    assert main(["train", "decision", "--config", str(config), *flags, "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run/config.toml").read_text()
    assert "width = 24" in text
    assert "steps = 2" in text


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing/below"])
def test_folders_that_cannot_be_written(
    place: str, cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    assert main([*TRAIN, "--data", cartpole, "--out", place]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("minrl: ")
    assert "\n" not in error
    assert place.split("/below")[0] in error
    assert Path("file").read_text() == "kept"


def test_json_is_the_only_output(run: Path, tmp_path: Path) -> None:
    done = minrl("evaluate", run, "--episodes", 3, "--json", "--threads", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert values["environment"] == "CartPole-v1"
    assert values["episodes"] == len(values["returns"]) == 3
    assert values["checkpoint"] == "last checkpoint"
    assert values["target_return"] > 0
    assert "Traceback" not in done.stderr


def test_json_for_several_targets(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "2", "--json", "--target", "5", "50"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["target_return"] for row in values["targets"]] == [5.0, 50.0]


@pytest.mark.parametrize("environment", ["HalfCheetah-v5", "Hopper-v4"])
def test_mujoco_warnings_do_no_harm(environment: str, tmp_path: Path) -> None:
    """Collect, train and evaluate where MuJoCo (in C) and Gymnasium warn; no file is left behind."""
    pytest.importorskip("mujoco")
    collect = ["collect", "--policy", "random", "--env", environment, "--episodes", 2, "--out", "minari:test/m-v0"]
    done = minrl(*collect, "--max-episode-steps", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = minrl(*TRAIN, "--data", "minari:test/m-v0", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = minrl("evaluate", "run", "--episodes", 1, "--json", "--threads", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["environment"] == environment
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


@pytest.mark.plots
def test_the_table_at_the_end(cartpole: str, tmp_path: Path) -> None:
    flags = [*TINY, "--steps", 4, "--evaluate-every", 4, "--evaluate-episodes", 3]
    done = minrl("train", "decision", *flags, "--data", cartpole, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("data set  ") :]
    for row in (
        f"{cartpole}: 30 episodes",
        "data set, mean return",
        "data set, best return",
        "the last one, after 4 steps",
        "CartPole-v1 (minrl",
        "normalised score",
        "time per training step",
        "time per action",
        "tensorboard --logdir run",
    ):
        assert row in table
    assert (tmp_path / "run/learning_curve.png").read_bytes().startswith(b"\x89PNG")
    # Without a terminal there is no progress bar.
    assert "step/s" not in done.stderr
    assert done.stderr.count("\r") == 0


def test_data_lists_and_describes_sets(cartpole: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    assert cartpole in capsys.readouterr().out
    assert main(["data", "list", "--json"]) == 0
    assert cartpole in [item["name"] for item in json.loads(capsys.readouterr().out)]
    assert main(["data", "info", cartpole]) == 0
    shown = capsys.readouterr().out
    assert "CartPole-v1" in shown
    assert main(["data", "info", cartpole, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 30


def test_collect_train_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--policy", "random", "--env", "Pendulum-v1", "--episodes", "3", "--out", "minari:me/pendulum-v0"]
    assert main(["collect", *flags, "--max-episode-steps", "20", "--seed", "4"]) == 0
    assert "minari:me/pendulum-v0: 3 episodes, 60 steps" in capsys.readouterr().out
    out = str(tmp_path / "run")
    train = ["train", "clone", *map(str, TINY), "--steps", "3", "--evaluate-every", "0", "--no-recurrent"]
    assert main([*train, "--data", "minari:me/pendulum-v0", "--out", out]) == 0
    assert main(["evaluate", out, "--episodes", "2"]) == 0
    assert "Pendulum-v1" in capsys.readouterr().out


def test_spaces_that_do_not_match(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--env", "Pendulum-v1"]) == 2
    error = capsys.readouterr().err.strip()
    assert "Pendulum-v1: its observation space" in error
    assert "\n" not in error


def test_a_closed_pipe_ends_quietly(cartpole: str) -> None:
    command = f"{sys.executable} -m minrl.agents data list | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
