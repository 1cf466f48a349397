"""The report of a comparison, from real runs: scores, warnings, figures, page."""

import csv
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tomli_w

pytest.importorskip("scipy")
from compare_runs import CARTPOLE, HOPPER, change_summary, copy_run, tomllib, train_all, write_grid
from plots import without_plots

from minrl.compare.grid.plan import ComparedTask, Method, NotDone, write_state
from minrl.compare.report.report import write_report
from minrl.compare.stats.results import read_comparison

PLOTS = ("scores", "profiles", "improvement", "curves_steps", "curves_seconds", "targets", "cost")
# Files that must not depend on clocks.
LASTING = ("report.md", "scores.csv", "statistics.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two methods on two tasks with two seeds."""
    folder = tmp_path_factory.mktemp("compare")
    with without_plots():
        train_all(folder, (0, 1))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """Copy the comparison, to be changed; its report has no plots, which are slow."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="module")
def drawn(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the comparison with a whole report, and known returns of each target."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("drawn") / "copy"))
    for run in folder.glob("runs/hopper/*/seed_*"):
        wanted = [{"step": step, "target_return": t, "mean_return": t / step} for step in (1, 2) for t in (10.0, 20.0)]
        (run / "targets.json").write_text(json.dumps(wanted))
    write_report(folder)
    return folder


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "report" / name).read_text().splitlines()))


def value(folder: Path, measure: str, method: str, task: str = "overall", column: str = "value") -> float:
    (row,) = [r for r in rows(folder, "statistics.csv")
              if (r["measure"], r["method"], r["task"]) == (measure, method, task)]  # fmt: skip
    return float(row[column])


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "report").iterdir())}


def test_scores_are_those_of_the_runs(folder: Path) -> None:
    printed = write_report(folder)
    found = rows(folder, "scores.csv")
    assert len(found) == 8
    for row in found:
        run = folder / "runs" / row["task"] / row["method"] / f"seed_{row['seed']}"
        evaluation = json.loads((run / "summary.json").read_text())["evaluation"]
        assert float(row["mean_return"]) == pytest.approx(evaluation["mean_return"], rel=1e-9)
        is_online = row["task"] == CARTPOLE.name
        score = evaluation["mean_return"] if is_online else evaluation["normalized_score"]
        assert float(row["score"]) == pytest.approx(score, rel=1e-9)
        assert float(row["score_0_to_100"]) == pytest.approx(score / 5 if is_online else score, rel=1e-9)
    scores = [float(r["score"]) for r in found if (r["task"], r["method"]) == ("hopper", "gru")]
    error = abs(scores[0] - scores[1]) / 2
    assert f"{np.mean(scores):.1f} ± {error:.1f} (2)" in printed
    assert "8 of 8 runs have a score" in printed
    assert "85.6" in printed
    assert "DT (published)" in printed


@pytest.mark.plots
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["first", "again"])
def test_every_output_exists_and_repeats(again: bool, drawn: Path) -> None:
    first = texts(drawn)
    assert not again or (write_report(drawn) and texts(drawn) == first)
    expected = {f"{name}.{kind}" for name in PLOTS for kind in ("png", "svg")}
    assert set(first) == expected | {*LASTING, "cost.md", "cost.csv", "report.html"}
    assert not re.search(rb"\b(nan|NaN|None)\b", b"".join(first[name] for name in (*LASTING, "cost.md", "cost.csv")))


def test_scores_do_not_depend_on_clocks(folder: Path) -> None:
    write_report(folder)
    before = texts(folder)
    for run in sorted(folder.glob("runs/*/*/seed_*")):
        change_summary(run, training_seconds=1234.5, seconds_per_action=0.5)
    write_report(folder)
    after = texts(folder)
    assert [name for name in LASTING if before[name] != after[name]] == []
    assert b"1234" in after["cost.md"]
    assert b"500.000" in after["cost.md"]


def test_another_folder_gives_the_same_report(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert all(write_report(place) for place in (folder, other))
    assert texts(folder) == texts(other)


def test_the_best_checkpoint_stays_in_its_column(folder: Path) -> None:
    write_report(folder)
    before = rows(folder, "statistics.csv")
    runs = folder / "runs/hopper"
    shutil.copy(runs / "gru/seed_1/best.pt", runs / "mingru/seed_0/best.pt")
    write_report(folder)
    changed = [(a["measure"], a["task"], a["method"])
               for a, b in zip(before, rows(folder, "statistics.csv"), strict=True) if a != b]  # fmt: skip
    assert changed == [("best_checkpoint_mean", "hopper", "mingru")]
    assert "best checkpoint (optimistic)" in (folder / "report/report.md").read_text()


def test_missing_runs_are_named_and_the_rest_reported(folder: Path) -> None:
    write_grid(folder, (0, 1, 2), tasks=(HOPPER, CARTPOLE, ComparedTask("walker", "offline", "d4rl:walker", "Walker")))
    shutil.rmtree(folder / "runs/hopper/gru/seed_1")
    (folder / "runs/cartpole/mingru/seed_1/summary.json").write_text('{"step": 9')
    change_summary(folder / "runs/cartpole/gru/seed_1", evaluation={"mean_return": float("nan")})
    state = {
        f"runs/walker/{m}/seed_{s}": NotDone("skipped", "no such data set") for m in ("mingru", "gru") for s in range(3)
    }
    write_state(state | {"runs/hopper/gru/seed_1": NotDone("failed", "the loss is not finite")}, folder)
    printed = write_report(folder)
    assert "5 of 18 runs have a score" in printed
    for said in ("no such data set", "the loss is not finite", "not run yet", "summary.json cannot be read",
                 "the return of its evaluation is not finite", "Walker: no finished run",
                 "Hopper, seed 1: not finished by every method"):  # fmt: skip
        assert said in " ".join((folder / "report/report.md").read_text().split()), said
    # Over all tasks, seeds that both methods have count: seed 0 of each.
    assert value(folder, "mean", "gru", column="count") == 2
    assert value(folder, "mean", "mingru", "hopper", "count") == 2


def test_a_report_without_finished_runs(folder: Path) -> None:
    shutil.rmtree(folder / "runs")
    assert "0 of 8 runs have a score" in write_report(folder)


def test_one_seed_has_no_interval(folder: Path) -> None:
    write_grid(folder, (0,))
    assert "No intervals: they need at least 3 seeds in every task" in " ".join(write_report(folder).split())
    assert (
        "One seed has no standard error. Fewer than 3 seeds have no interval."
        in (folder / "report/report.md").read_text()
    )
    assert {row["low"] for row in rows(folder, "statistics.csv")} == {""}


def test_a_task_without_a_scale_is_left_out_by_name(folder: Path) -> None:
    write_grid(folder, (0, 1), tasks=(HOPPER, ComparedTask("cartpole", "online", CARTPOLE.source, "CartPole")))
    printed = " ".join(write_report(folder).split())
    assert "Left out: CartPole: no reference scores (low and high in the grid's [tasks.cartpole]" in printed
    assert value(folder, "mean", "gru") == pytest.approx(value(folder, "mean", "gru", "hopper"))


@pytest.fixture
def known(folder: Path) -> Path:
    """Create runs in which minGRU leads GRU by 10, 20, ... in seeds 0 to 5 of both tasks."""
    for task in ("hopper", "cartpole"):
        for seed in range(6):
            runs = folder / "runs" / task
            copy_run(runs / "gru/seed_0", runs / f"gru/seed_{seed}", 100.0 + seed)
            copy_run(runs / "mingru/seed_0", runs / f"mingru/seed_{seed}", 110.0 + 11 * seed)
    write_grid(folder, range(6))
    return folder


def test_statistics_of_known_scores(known: Path) -> None:
    write_report(known)
    hopper, cartpole = np.arange(100.0, 106.0), np.arange(100.0, 106.0) / 5
    assert value(known, "mean", "gru") == pytest.approx((hopper.mean() + cartpole.mean()) / 2)
    # Of twelve runs three are trimmed at each end.
    middle = np.sort(np.concatenate([hopper, cartpole]))[3:-3].mean()
    assert value(known, "interquartile_mean", "gru") == pytest.approx(middle)
    assert value(known, "probability_of_improvement", "mingru") == 1.0
    assert value(known, "paired_difference", "mingru", "hopper") == 35.0
    assert value(known, "paired_difference", "mingru", "hopper", "p") == 2 / 64
    assert value(known, "paired_difference", "mingru", "hopper", "p_adjusted") == 2 / 32  # of three tests, one smaller
    assert value(known, "paired_difference", "mingru", "overall", "p") < 2 / 64
    assert "(p = 0.031, 6 pairs)" in (known / "report/report.md").read_text()


@pytest.mark.parametrize("seeds", [4, 5])
def test_few_seeds_are_warned_of(known: Path, seeds: int) -> None:
    write_grid(known, range(seeds), tasks=(HOPPER,))
    printed = write_report(known)
    assert f"{seeds} runs of each method are too few to say which method is better in Hopper" in printed
    assert f"{ {4: '12%', 5: '6%'}[seeds] } of the time; with 6 runs it is below 5%." in printed
    assert "Paired tests" not in (known / "report/report.md").read_text()


def test_many_methods_become_rows(known: Path) -> None:
    methods = [Method(f"m{i}", f"Method {i}") for i in range(12)]
    for seed in (0, 1):
        for index, method in enumerate(methods):
            copy_run(known / "runs/hopper/gru/seed_0", known / f"runs/hopper/{method.name}/seed_{seed}", index + seed)
    write_grid(known, (0, 1), tasks=(HOPPER,), methods=methods)
    write_report(known)
    text = (known / "report/report.md").read_text()
    assert "| Method 3 | 3.5 ± 0.5 (2) |" in text
    assert "each is compared with the first one only" in text
    assert len(rows(known, "scores.csv")) == 24


def test_target_returns_are_read_and_drawn(trained: Path, drawn: Path) -> None:
    for run in read_comparison(trained).runs_of(HOPPER.name):
        asked = [target for target, _ in run.targets()]
        assert len(asked) >= 2
        assert asked == sorted(asked)
    text = (drawn / "report/report.html").read_text()
    assert "minGRU: target 10, achieved 5, target 20, achieved 10; GRU: target 10" in text


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_self_contained_and_accessible(drawn: Path) -> None:
    text = (drawn / "report/report.html").read_text()
    tags = Page(text).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object"}
    links = [v or "" for _, attributes in tags for k, v in attributes.items() if k in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert "@import" not in text
    numbered = [name for _, attributes in tags if re.search(r"-\d+$", name := attributes.get("id") or "")]
    assert len(numbered) == len(set(numbered))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | {link[1:] for link in links} <= set(numbered)
    figures = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    # Three of scores, two of curves over each of steps and seconds, two of cost, and three single ones.
    assert len(figures) == sum(tag == "svg" for tag, _ in tags) == 12
    for attributes in figures:
        assert re.search(r"minGRU.*\d", attributes["aria-label"] or "")
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_every_figure_names_runs_environments_versions_and_protocol(drawn: Path) -> None:
    for name in PLOTS:
        text = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", (drawn / f"report/{name}.svg").read_text()))
        environments = ["Hopper-v5"] if name == "targets" else ["Hopper-v5", "minrl/CartPoleNoVel-v1"]
        for said in ("runs (runs/TASK/METHOD/seed_N", *environments, "last checkpoint", "2 episodes a run", "torch "):
            assert said in text, (name, said)


@pytest.mark.parametrize(
    ("table", "setting", "said"),
    [
        ("train", {"choose_target": True}, "GRU: the target return is selected after the last step"),
        ("decision", {"return_expectile": 0.9}, "GRU: no fixed target return, but at every step the return"),
    ],
)
def test_other_targets_are_reported(folder: Path, table: str, setting: dict[str, object], said: str) -> None:
    write_report(folder)
    assert said not in (folder / "report/report.md").read_text()
    config = folder / "runs/hopper/gru/seed_0/config.toml"
    tables = tomllib.loads(config.read_text())
    tables[table] |= setting
    config.write_text(tomli_w.dumps(tables))
    write_grid(folder, (0, 1))
    write_report(folder)
    assert said in (folder / "report/report.md").read_text()


def test_without_matplotlib_there_are_tables(folder: Path) -> None:
    assert "pip install matplotlib, then" in write_report(folder)
    assert set(texts(folder)) == {*LASTING, "cost.md", "cost.csv", "report.html"}


def test_without_scipy_one_line_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ValueError, match=r"^the statistics of a comparison need scipy: pip install scipy matplotlib$"):
        write_report(folder)


def test_a_folder_without_a_comparison_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no comparison's folder"):
        write_report(tmp_path)
