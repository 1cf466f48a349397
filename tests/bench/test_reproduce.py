"""`minrl reproduce`: experiments end to end at their quick size, their figures, and resuming."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import minrl
from torch import Tensor, nn

from minrl.agents.__main__ import main
from minrl.reproduce import EXPERIMENTS, parameter_ratios, shakespeare
from minrl.reproduce.frame import Request
from minrl.reproduce.means import mean_and_error
from minrl.reproduce.peak_memory import peaks
from minrl.reproduce.run import reproduce
from minrl.reproduce.text import SHIPPED, Text, read
from minrl.reproduce.training import Training, train

OURS = ("parameter_ratios", "length", "shakespeare")
# A layer's memory is measured in a process of its own, which takes seconds to start.
FEWER = {"length": ("--cells", "mingru", "gru"), "shakespeare": ("--cells", "mingru")}
PAPER = {
    "parameter_ratios": ["33 %", "22 %", "17 %", "13 %", "38 %", "25 %", "19 %", "15 %"],
    "length": [],  # T = 512 and 4096 only
    "shakespeare": ["1.548 @ 575"],
}


def parts(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["parts"]
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Run each experiment at its quick size; return the folder and what was printed."""
    folder = tmp_path_factory.mktemp("reproduce")
    printed = {}
    for name in OURS:
        done = minrl("reproduce", name, "--quick", *FEWER.get(name, ()), cwd=folder)
        assert done.returncode == 0, done.stderr
        printed[name] = done.stdout
    return folder / "runs/reproduce", printed


@pytest.mark.parametrize("name", OURS)
def test_table_and_numbers_and_plot(name: str, finished: tuple[Path, dict[str, str]]) -> None:
    folder, printed = finished
    table = (folder / f"{name}.md").read_text()
    assert table in printed[name]
    assert f"`minrl reproduce {name} --quick{' '.join(('', *FEWER.get(name, ())))}`" in table
    assert "paper's" in table.splitlines()[4]
    assert all(figure in table for figure in PAPER[name])
    assert f"torch {torch.__version__}" in table
    assert "parts are done" not in table
    head, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    assert all(row.count("|") == head.count("|") for row in rows)
    has_plot = name != "parameter_ratios" and "matplotlib" not in printed[name]
    assert (folder / f"{name}.png").exists() == has_plot
    assert not list(folder.glob("*unfinished*"))


def test_parameters_are_those_of_the_closed_form() -> None:
    for alpha in parameter_ratios.ALPHAS:
        width, inner = 24, 24 * alpha
        gru, lstm = (parameter_ratios.count(cell, width, alpha) for cell in ("mingru", "minlstm"))
        assert gru["parameters"] == 2 * inner * width
        assert gru["peer_parameters"] == 3 * inner * (width + inner)
        assert lstm["parameters"] == 3 * inner * width
        assert lstm["peer_parameters"] == 4 * inner * (width + inner)
        for cell, found in (("mingru", gru), ("minlstm", lstm)):
            assert round(found["per_cent"] + 1e-9) == parameter_ratios.PAPER[cell][alpha - 1]


def test_times_and_memory_of_every_layer(finished: tuple[Path, dict[str, str]]) -> None:
    found = parts(finished[0] / "length.json")
    timed = [part["numbers"] for part in found if part["settings"]["measure"] == "time"]
    layers = set(FEWER["length"][1:])
    assert [set(numbers) for numbers in timed] == [layers, layers]
    assert all(0 < t["minimum_seconds"] <= t["median_seconds"] for numbers in timed for t in numbers.values())
    measured = [part for part in found if part["settings"]["measure"] == "memory"]
    assert {part["settings"]["layer"] for part in measured} == layers
    assert all(set(part["numbers"]["bytes"]) == {"64", "128"} for part in measured)
    table = finished[1]["length"]
    ratio = timed[0]["gru"]["minimum_seconds"] / timed[0]["mingru"]["minimum_seconds"]
    row = next(line for line in table.splitlines() if line.startswith("| 64 | GRU |"))
    assert f"| {ratio:.2f} |" in row


@pytest.mark.slow
def test_peak_memory_holds_the_tensors_and_grows_with_them() -> None:
    found = peaks("mingru", 8, [256, 2048, 4096], 64, threads=1, device="cpu")
    short, long = found[2048], found[4096]
    tensor = 8 * 2048 * 64 * 4
    assert short > 5 * tensor  # input, gates, output, the gradients of both
    assert long / short == pytest.approx(2, rel=0.15)


def test_text_in_rows() -> None:
    text = read(SHIPPED, 50)
    whole = SHIPPED.read_text(encoding="utf-8")
    assert text.vocabulary == len(set(whole))
    assert len(text.training) + len(text.test) == len(whole)
    assert len(text.test) == pytest.approx(len(whole) / 10, abs=1)
    seen, wanted = text.test_rows(50)
    assert torch.equal(seen.flatten(), text.test[: seen.numel()])
    assert torch.equal(wanted.flatten(), text.test[1 : seen.numel() + 1])
    assert len(text.test) - seen.numel() <= 50
    seen, wanted = text.batch(4, 50, seed=0, step=3)
    places = text.training.unfold(0, 51, 1)
    assert all((places == torch.cat([a, b[-1:]])).all(1).any() for a, b in zip(seen, wanted, strict=True))
    assert torch.equal(text.batch(4, 50, seed=0, step=3)[0], seen)
    assert not torch.equal(text.batch(4, 50, seed=0, step=4)[0], seen)


@pytest.mark.parametrize("cell", ["mingru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_a_cycle_is_learned_and_noise_is_not(cell: str) -> None:
    """Learn a cycle of eight characters to a loss near zero; independent ones stay at ln 8 or above."""
    config = shakespeare.Config(16, 1, 2, 16, Training(150, 16, 1e-2, 1.0, 150), dropout=0.0)
    torch.manual_seed(0)
    for symbols, learnable in ((torch.arange(4000) % 8, True), (torch.randint(8, (4000,)), False)):
        text = Text(symbols[:3600], symbols[3600:], 8)
        loss = shakespeare.learn(cell, 0, config, text, "cpu", "it", None)["curve"][-1]["test_loss"]
        assert loss < 0.05 if learnable else loss > math.log(8) - 0.05


def test_finished_parts_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*cells: str, seed: int = 0) -> str:
        experiment = EXPERIMENTS["shakespeare"]
        reproduce("shakespeare", experiment, Request(size="quick", cells=cells, seeds=(seed,)), tmp_path)
        return capsys.readouterr().err

    assert "1 of 1: minGRU, seed 0: done in" in run("mingru")
    (kept,) = parts(tmp_path / "shakespeare.json")
    again = run("mingru", "minlstm")
    assert "1 of 2: minGRU, seed 0: done before" in again
    assert "2 of 2: minLSTM, seed 0: done in" in again
    assert parts(tmp_path / "shakespeare.json")[0] == kept
    assert "done before" not in run("mingru", seed=1)
    assert len(parts(tmp_path / "shakespeare.json")) == 3
    row = next(line for line in (tmp_path / "shakespeare.md").read_text().splitlines() if line.startswith("| minGRU"))
    assert row.split("|")[2].strip() == "1"  # the table has the requested seed


def test_training_resumed_after_ctrl_c_is_equal(tmp_path: Path) -> None:
    training = Training(12, 4, 1e-2, 1.0, evaluate_every=5, warmup=0.25, decay="cosine")

    def curve(stop_at: int | None) -> list[dict[str, Any]]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))

        def loss(step: int) -> Tensor:
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            generator = torch.Generator().manual_seed(step)
            result: Tensor = (model(torch.randn(4, 3, generator=generator)) - 1).square().mean()
            return result

        def evaluate() -> dict[str, float]:
            return {"weight": model[0].weight.sum().item()}

        path = tmp_path / "under way.pt"
        found = train(model, training, loss, evaluate, name="it", seed=2, unfinished=path)
        assert not path.exists()
        return [{name: value for name, value in record.items() if name != "seconds"} for record in found]

    whole = curve(None)
    assert [record["step"] for record in whole] == [5, 10, 12]
    for stop_at in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            curve(stop_at)
    assert curve(None) == whole


def test_a_model_that_diverges_raises() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="it: the loss is not finite by step 2"):
        train(
            model, Training(4, 1, 1e-2, 1.0, 2), lambda step: model(torch.full((1, 1), math.nan)).mean(), dict,
            name="it", seed=0,
        )  # fmt: skip


def test_the_list_of_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name, experiment in EXPERIMENTS.items():
        for size in ("small", "full"):
            assert f"{name} {size} {experiment.sizes[size]} " in printed  # type: ignore[index]


MISTAKES = {
    "name": (["shakespear"], 'unknown name "shakespear"; did you mean "shakespeare"?'),
    "cell": (["shakespeare", "--cells", "mingro"], 'unknown cell "mingro"; did you mean "mingru"?'),
    "cell of another": (["parameter_ratios", "--cells", "mamba"], 'unknown cell "mamba"; choose from mingru, minlstm'),
    "threads": (["length", "--threads", "0"], "threads must be from 1 to"),
    "seed": (["shakespeare", "--seed", "0", "-1"], "seed must be at least 0, got -1"),
    "two sizes": (["shakespeare", "--full", "--quick"], "not allowed with argument"),
    "flag": (["length", "--text", "x"], "unknown flag --text"),
    "no file": (["shakespeare", "--text", "nowhere.txt"], "nowhere.txt: No such file or directory"),
    "folder": (["shakespeare", "--text", "foreign"], "foreign: Is a directory"),
    "short text": (["shakespeare", "--text", "short.txt"], "short.txt has 100 characters: at least 650 are needed"),
    "no text": (["shakespeare", "--text", "bytes.bin"], "bytes.bin is not UTF-8 text (byte 1)"),
    "other file": (["parameter_ratios", "--out", "foreign"], "parameter_ratios.json exists and is not from minrl"),
    "other table": (["length", "--out", "foreign"], "length.md exists and is not from minrl reproduce"),
    "file as folder": (["length", "--out", "short.txt"], "short.txt"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"short.txt": b"a" * 100, "bytes.bin": b"a\xff" * 900}
    files |= {"foreign/parameter_ratios.json": b"[1]", "foreign/length.md": b"kept"}
    (tmp_path / "foreign").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    words, message = MISTAKES[mistake]
    try:
        code: Any = main(["reproduce", *words])
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert message in error
    assert "\n" not in error
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


def test_means() -> None:
    assert mean_and_error([1.25], 3) == "1.250"
    assert mean_and_error([1.0, 2.0, 3.0, 4.0], 2) == "2.50 ± 0.65"  # sqrt(5 / 3) / 2
