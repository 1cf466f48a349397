"""Plots of many methods: which they show, and that their names have room."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
from compare_runs import HOPPER, copy_run, write_grid

from minrl.agents.__main__ import main
from minrl.compare.grid.plan import Method
from minrl.compare.report import run_plots, score_plots
from minrl.compare.report.plotted import MOST, plotted
from minrl.compare.stats.analysis import Analysis, analyse
from minrl.compare.stats.results import read_comparison
from minrl.runs import figures

pytestmark = pytest.mark.plots

PLAIN = Method("plain", "a method without a sweep")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "seed_0"
    small = ["--steps", "3", "--batch-size", "2", "--length", "20", "--evaluate-every", "1", "--log-every", "1"]
    small += ["--width", "8", "--depth", "1", "--evaluate-episodes", "1", "--threads", "1"]
    assert main(["train", "decision", "--data", HOPPER.source, "--out", str(out), *small]) == 0
    return out


def swept(base: str, count: int) -> list[Method]:
    return [
        Method(f"{base}+width={8 + i}", f"{base}, learning_rate 0.0003, batch_size {8 + i}, length 160", base)
        for i in range(count)
    ]


def analysis_of(run: Path, folder: Path, methods: Sequence[Method], scores: Sequence[float]) -> Analysis:
    for method, score in zip(methods, scores, strict=True):
        copy_run(run, folder / "runs/hopper" / method.name / "seed_0", score)
    write_grid(folder, [0], tasks=(HOPPER,), methods=methods)
    return analyse(read_comparison(folder))


def test_up_to_sixteen_methods_are_all_shown(run: Path, tmp_path: Path) -> None:
    analysis = analysis_of(run, tmp_path, swept("A", MOST), range(MOST))
    assert plotted(analysis) == (analysis, "")


def test_of_more_the_chosen_ones_of_each_sweep(run: Path, tmp_path: Path) -> None:
    methods = [*swept("A", 9), *swept("B", 9), PLAIN]
    shown, which = plotted(analysis_of(run, tmp_path, methods, [*range(9), *range(9, 0, -1), 4.0]))
    assert list(shown.labels) == ["A+width=16", "B+width=8", "plain"]
    assert {name: cell.mean for (_, name), cell in shown.cells.items()} == {
        "A+width=16": 8.0, "B+width=8": 9.0, "plain": 4.0,
    }  # fmt: skip
    assert which == "Of 19 methods those with the chosen settings of each."
    assert {run.planned.method for run in shown.runs} == set(shown.labels)


def test_of_more_without_such_a_choice_the_highest(run: Path, tmp_path: Path) -> None:
    shown, which = plotted(analysis_of(run, tmp_path, swept("A", 18), [5.0, *range(17, 0, -1)]))
    assert list(shown.labels) == [f"A+width={8 + i}" for i in range(18) if i not in (16, 17)]
    assert which == "Of 18 methods the 16 with the highest scores."


@pytest.mark.filterwarnings("error:constrained_layout")
def test_names_have_room(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw twelve names of four lines: the layout fits, names lie in the figure and on no other name or title."""
    analysis = analysis_of(run, tmp_path, swept("A", 12), range(12))
    names = 0
    draw = figures._draw

    def drawn(axes: Any, panel: figures.Panel, title: str) -> None:
        nonlocal names
        draw(axes, panel, title)
        axes.figure.canvas.draw()
        whole = axes.figure.bbox
        shown = [text for text in axes.texts if text.get_text()]
        boxes = [text.get_window_extent() for text in (*shown, axes.title) if text.get_text()]
        assert all(box.y0 >= whole.y0 and box.y1 <= whole.y1 for box in boxes), panel.title
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i]), panel.title
        names += len(shown)

    monkeypatch.setattr(figures, "_draw", drawn)
    for plot in (run_plots.curves(analysis, "steps"), run_plots.cost(analysis), score_plots.improvements(analysis)):
        assert plot is not None
        figures.write_files(plot, tmp_path)
    assert names == 3 * 12
