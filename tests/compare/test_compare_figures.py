"""Figures of a comparison, as matplotlib's objects: colours, markers, widths, limits, words."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
from compare_runs import CARTPOLE, HOPPER, copy_run, train_all, write_grid
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import minrl
from minrl.bench import plots as bench_plots
from minrl.compare.grid.plan import ComparedTask
from minrl.compare.report import run_plots, score_plots, score_tables
from minrl.compare.report.html_page import page
from minrl.compare.report.report import write_report
from minrl.compare.stats.analysis import Analysis, analyse
from minrl.compare.stats.results import read_comparison
from minrl.data import load
from minrl.runs.figures import COLOURS, GREY, MARKERS, Plot, count_coinciding, limit_axis, line_style
from minrl.runs.learning_curve import CurvePanel, draw
from minrl.runs.log import STEP
from minrl.runs.summary import title_of
from minrl.training.report import score_panel

pytestmark = pytest.mark.plots

SCORES = {"mingru": (60.0, 80.0, 90.0, 95.0), "gru": (0.0, 1.0, 2.0, 70.0)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create two methods on two tasks with four seeds, copies of one run each with known scores."""
    folder = tmp_path_factory.mktemp("figures")
    train_all(folder, (0,))
    for task in (HOPPER, CARTPOLE):
        for method, scores in SCORES.items():
            runs = folder / "runs" / task.name / method
            for seed, score in reversed(list(enumerate(scores))):
                copy_run(runs / "seed_0", runs / f"seed_{seed}", score)
    write_grid(folder, range(4))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def analysis_of(folder: Path) -> Analysis:
    return analyse(read_comparison(folder))


def plots_of(analysis: Analysis) -> Iterator[Plot]:
    made = [score_plots.intervals(analysis), score_plots.profiles(analysis), score_plots.improvements(analysis)]
    made += [run_plots.curves(analysis, "steps"), run_plots.targets(analysis), run_plots.cost(analysis)]
    yield from (plot for plot in made if plot is not None)


def drawn(plot: Plot) -> Iterator[Any]:
    """Yield the axes of each panel."""
    for panel in plot.panels:
        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        panel.draw(axes)
        yield axes


def looks(axes: Any) -> set[tuple[str, str]]:
    """Return colour and marker of everything that has a marker."""
    marked = [found for found in axes.lines if found.get_marker() not in ("", "None", None)]
    return {(to_hex(found.get_color()), found.get_marker()) for found in marked if found.get_marker() != "D"}


def luminance(colour: str) -> float:
    """Compute the relative luminance of WCAG 2.2 from #rrggbb."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("ground", ["#ffffff", *sorted(set(re.findall(r"--band: (#\w{6})", page("", [], [], []))))])
def test_colours_stand_out_on_light_and_dark_grounds(ground: str) -> None:
    assert luminance("#ffffff") == pytest.approx(1.0)
    for colour in (GREY, *COLOURS):
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_a_method_has_one_colour_and_marker_everywhere(trained: Path) -> None:
    analysis = analysis_of(trained)
    methods = {(COLOURS[0], MARKERS[0]), (COLOURS[1], MARKERS[1])}
    seen = set()
    for plot in plots_of(analysis):
        for axes in drawn(plot):
            # Error bars have caps for markers.
            found = {look for look in looks(axes) if look[1] in MARKERS}
            assert found <= methods, plot.name
            seen |= found
    assert seen == methods
    assert len(set(MARKERS)) == len(MARKERS)
    assert "D" not in MARKERS  # a published score
    assert all(
        (line_style(i, 400)["color"], line_style(i, 400)["marker"]) == (line_style(i)["color"], line_style(i)["marker"])
        for i in range(8)
    )


def test_curves_that_coincide_are_both_visible(folder: Path) -> None:
    """Draw the lower one so much wider that it shows on both sides of the upper one."""
    for seed in range(4):
        shutil.rmtree(folder / f"runs/hopper/gru/seed_{seed}")
        shutil.copytree(folder / f"runs/hopper/mingru/seed_{seed}", folder / f"runs/hopper/gru/seed_{seed}")
    analysis = analysis_of(folder)
    for plot in (run_plots.curves(analysis, "steps"), run_plots.targets(analysis)):
        assert plot is not None
        axes = next(drawn(plot))
        marked = [found for found in axes.lines if found.get_marker() in MARKERS and len(found.get_xdata()) > 1]
        lines = {to_hex(found.get_color()): found for found in marked}
        below, above = lines[COLOURS[0]], lines[COLOURS[1]]
        np.testing.assert_array_equal(below.get_ydata(), above.get_ydata())
        assert below.get_linewidth() >= above.get_linewidth() + 2
        assert below.get_markersize() > above.get_markersize() + 2


def test_which_curves_coincide() -> None:
    x = np.linspace(0.0, 1.0, 11)
    assert count_coinciding([(x, x), (x, x), (x, 1 - x), (x, x)]) == [2, 1, 0, 0]
    assert count_coinciding([(x, x), (x + 2, x)]) == [0, 0]
    # Over the half that they share, at different points.
    assert count_coinciding([(x, x), (x[1::2], x[1::2] + 0.001)]) == [1, 0]
    assert count_coinciding([(x, x), (x, x + 0.5)]) == [0, 0]


def test_axes_show_possible_values_only(trained: Path) -> None:
    """Check that axes leave out negative returns and scores, and shares outside [0, 1]."""
    for plot in plots_of(analysis_of(trained)):
        for axes in drawn(plot):
            horizontal, vertical = axes.get_xlim(), axes.get_ylim()
            assert horizontal[0] >= 0, plot.name
            if plot.name == "profiles":
                assert vertical == (0, 1)
            elif plot.name == "improvement":
                assert horizontal == (0, 1)
            elif plot.name in ("curves_steps", "targets", "cost"):
                assert vertical[0] >= 0, plot.name


def test_axes_include_negative_returns() -> None:
    axes = Figure().add_subplot()
    axes.plot([0, 1], [-5.0, 3.0])
    before = axes.get_ylim()
    limit_axis(axes, "y", [-5.0, 3.0])
    assert axes.get_ylim() == before


@pytest.mark.parametrize("published", [True, False])
def test_diamonds_are_explained_where_there_are_some(published: bool, folder: Path) -> None:
    hopper = ComparedTask("hopper", "offline", HOPPER.source, "Hopper", {"DT": 85.6} if published else {})
    write_grid(folder, range(4), tasks=(hopper,))
    plot = score_plots.intervals(analysis_of(folder))
    assert plot is not None
    assert ("diamond" in plot.caption) == published
    diamonds = [found for axes in drawn(plot) for found in axes.lines if found.get_marker() == "D"]
    assert [list(found.get_xdata()) for found in diamonds] == ([[85.6]] if published else [])


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_two_seeds_have_no_interval(seeds: int, folder: Path) -> None:
    write_grid(folder, range(seeds))
    analysis = analysis_of(folder)
    every = [*(cell.middle for cell in analysis.cells.values()), *(total.mean for total in analysis.totals.values())]
    every += [found.probability for found in analysis.improvements]
    assert {estimate.has_interval for estimate in every} == {seeds >= 3}
    for plot in plots_of(analysis):
        assert ("95 %" in plot.caption) == (seeds >= 3 and plot.name not in ("curves_steps", "targets")), plot.name


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_warnings_in_plain_words(seeds: int, folder: Path) -> None:
    """Give the chance that all n differences agree in sign, 2 / 2^n."""
    write_grid(folder, range(seeds), tasks=(HOPPER,))
    (warning,) = score_tables.warnings(analysis_of(folder))
    assert not re.search(r"\bp\b|<|signific|pair", warning)
    assert f"{2 * 0.5**seeds:.0%} of the time" in warning
    assert "too few to say which method is better in Hopper" in warning
    assert "with 6 runs it is below 5%" in warning  # 2 / 64 = 3.1 %, and 2 / 32 = 6.3 %


class _Headings(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = tag in ("h1", "h2", "caption")
        if self.open:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.open = False


def test_no_heading_stands_twice(folder: Path) -> None:
    write_report(folder)
    page = _Headings()
    page.feed((folder / "report/report.html").read_text())
    assert len(page.found) > 8
    assert len(page.found) == len(set(page.found)), page.found
    headings = re.findall(r"^#+ (.+)$", (folder / "report/report.md").read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings)), headings


def test_the_learning_curve_names_its_run(trained: Path) -> None:
    """Check title, data set and environment, and the data's mean and best, normalised like the scores."""
    run = trained / "runs/hopper/mingru/seed_0"
    assert (run / "learning_curve.png").is_file()
    agent: Any = minrl.load(run)
    episodes = load(HOPPER.source)
    figure = draw(run, title_of(agent, None), [score_panel(run, episodes)])
    title = figure.get_suptitle()
    for said in ("decision", "mingru", HOPPER.source, "Hopper-v5"):
        assert said in title
    (axes,) = figure.axes
    levels = {found.get_label(): float(found.get_ydata()[0]) for found in axes.lines}
    low, high = -20.272305, 3234.3  # D4RL's reference returns of Hopper
    for name, value in (("data, mean", episodes.returns.mean()), ("data, best", episodes.returns.max())):
        assert levels[name] == pytest.approx(100 * (value - low) / (high - low), abs=1e-3)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(levels)
    assert axes.get_xlim()[0] >= 0


def test_a_curve_of_losses_alone(trained: Path) -> None:
    run = trained / "runs/hopper/mingru/seed_0"
    figure = draw(run, "a title with $ signs", [CurvePanel(STEP, "gradient steps", "loss", ("train/loss",))])
    (axes,) = figure.axes
    assert axes.get_ylim()[0] >= 0
    assert draw(run, "nothing", [CurvePanel(STEP, "gradient steps", "loss", ("no/such/column",))]) is None


def test_no_bars_on_a_logarithmic_axis() -> None:
    axes = Figure().add_subplot()
    curves = {"minGRU": [(1.0, 30.0), (64.0, 90.0)], "LSTM": [(1.0, 50.0), (64.0, 200.0)]}
    bench_plots._draw(axes, curves, {name: line_style(i) for i, name in enumerate(curves)})
    assert axes.get_yscale() == "log"
    assert len(axes.patches) == 0
    assert looks(axes) == {(COLOURS[0], MARKERS[0]), (COLOURS[1], MARKERS[1])}
