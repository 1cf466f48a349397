"""The report on a comparison: tables, plots and a page, from the run folders alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minrl.compare.report import csv_tables, protocol, run_plots, score_plots, score_tables
from minrl.compare.report.chosen import CHOSEN, chosen_table, chosen_toml
from minrl.compare.report.cost import cost_table
from minrl.compare.report.html_page import NO_PLOTS, page
from minrl.compare.report.plotted import plotted
from minrl.compare.report.table import Table, markdown
from minrl.compare.stats import statistics
from minrl.compare.stats.analysis import Analysis, analyse
from minrl.compare.stats.results import read_comparison
from minrl.runs import figures
from minrl.runs.figures import Plot
from minrl.system.files import remove_drafts, replacing
from minrl.system.lock import folder_lock
from minrl.system.messages import faults_of

REPORT = "report"
MARKDOWN, PAGE, SCORES, STATISTICS = "report.md", "report.html", "scores.csv", "statistics.csv"
COST_MARKDOWN, COST = "cost.md", "cost.csv"
# Seconds to wait for another report on the same comparison, which is written within a few.
_PATIENCE = 60.0


def write_report(folder: Path) -> str:
    """Write all files of the report into `report` of a comparison's folder; return the main tables as text.

    Missing, failed and skipped runs are listed, the rest is reported. `report.md`, `scores.csv` and `statistics.csv`
    depend on scores and protocol alone, so that interrupted and resumed runs give the same text. Measured times are in
    `cost.md`, `cost.csv`, the plots and the page.

    Raises:
        ValueError: if the folder holds no comparison, or scipy is missing.
        OSError: if the report cannot be written.
    """
    statistics.check_installed()
    with faults_of(str(folder)):
        analysis = analyse(read_comparison(folder))
        plots = _plots(analysis) if figures.has_matplotlib() else []
        found, warnings, out = score_tables.tables(analysis), score_tables.warnings(analysis), folder / REPORT
        if (chosen := chosen_table(analysis)).rows:
            found.insert(0, chosen)
        cost = cost_table(analysis)
        texts = {
            MARKDOWN: _markdown(analysis, found, warnings, plots),
            SCORES: csv_tables.scores_csv(analysis),
            STATISTICS: csv_tables.statistics_csv(analysis),
            COST_MARKDOWN: cost.to_markdown(),
            COST: csv_tables.cost_csv(analysis),
            PAGE: _page(analysis, [*found, cost], warnings, plots),
            **({CHOSEN: text} if (text := chosen_toml(analysis)) else {}),
        }
    with folder_lock(out, patience=_PATIENCE):
        remove_drafts(out)
        for plot in plots:
            figures.write_files(plot, out)
        for name, text in texts.items():
            with replacing(out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return _terminal(analysis, found, warnings, out)


def _plots(analysis: Analysis) -> list[Plot]:
    """Draw the plots that the runs have data for."""
    shown, which = plotted(analysis)
    found = [
        score_plots.intervals(shown),
        score_plots.profiles(shown),
        score_plots.improvements(shown),
        run_plots.curves(shown, "steps"),
        run_plots.curves(shown, "seconds"),
        run_plots.targets(shown),
        run_plots.cost(shown),
    ]
    return [replace(plot, caption=f"{plot.caption} {which}".rstrip()) for plot in found if plot is not None]


def _markdown(analysis: Analysis, found: Sequence[Table], warnings: Sequence[str], plots: Sequence[Plot]) -> str:
    """Write the report as Markdown, without times or paths, so that equal scores give equal text."""
    notes = "".join(f"- {markdown(line)}\n" for line in protocol.lines(analysis))
    pictures = "\n\n".join(f"![{markdown(f'{plot.title}: {plot.caption}')}]({plot.name}.png)" for plot in plots)
    title = markdown(analysis.comparison.plan.title)
    parts = [f"# {title}\n", *(f"{markdown(text)}\n" for text in _summary(analysis, warnings))]
    parts += [table.to_markdown() for table in found]
    parts += [f"## Plots\n\n{pictures or NO_PLOTS}\n", f"What the runs cost: [{COST_MARKDOWN}]({COST_MARKDOWN}).\n"]
    return "\n".join([*parts, f"## Protocol\n\n{notes}"])


def _page(analysis: Analysis, found: Sequence[Table], warnings: Sequence[str], plots: Sequence[Plot]) -> str:
    """Write the HTML page: plots after the tables that they show."""
    by_title = {table.title: table for table in found if table.rows}
    by_name = {plot.name: plot for plot in plots}
    order = ("Chosen settings", "Scores", "Over all tasks", "scores", "profiles", "Each task", "improvement",
             "Probability of improvement", "Paired tests", "curves_steps", "curves_seconds", "targets", "cost", "Cost",
             "Runs without a score", "Tasks", "Methods")  # fmt: skip
    sections = [section for name in order if (section := by_title.get(name) or by_name.get(name)) is not None]
    notes = protocol.lines(analysis) if plots else [NO_PLOTS, *protocol.lines(analysis)]
    return page(analysis.comparison.plan.title, _summary(analysis, warnings), sections, notes)


def _summary(analysis: Analysis, warnings: Sequence[str]) -> list[str]:
    return [f"{protocol.counts(analysis)}.", *(f"Warning: {text}" for text in warnings)]


def _terminal(analysis: Analysis, found: Sequence[Table], warnings: Sequence[str], out: Path) -> str:
    shown = ("Chosen settings", "Scores", "Over all tasks", "Runs without a score")
    parts = [table.to_text() for table in found if table.title in shown]
    ending = _summary(analysis, warnings)
    if not figures.has_matplotlib():
        ending.append(NO_PLOTS)
    return "\n\n".join([*parts, "\n".join([*ending, f"report: {out / PAGE} and {out / MARKDOWN}"])])
