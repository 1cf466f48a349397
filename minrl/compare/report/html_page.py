"""The report as one self-contained HTML page: tables, and plots as SVG, for light and dark, wide and narrow screens."""

from collections.abc import Sequence
from html import escape

from minrl.compare.report.table import Table
from minrl.runs.figures import INK, Panel, Plot, panel_svg
from minrl.system.extras import install_hint

# Shown in place of plots without matplotlib.
NO_PLOTS = f"There are no plots, as matplotlib is not installed: {install_hint('plot')}, then the same command again."


def page(title: str, summary: Sequence[str], sections: Sequence[Plot | Table], notes: Sequence[str]) -> str:
    """Render the page.

    Args:
        title: of the comparison.
        summary: paragraphs under the title.
        sections: in display order.
        notes: on the protocol, one or two sentences each.
    """
    body = [f"<section>{s.to_html()}</section>" if isinstance(s, Table) else _plot_section(s) for s in sections]
    paragraphs = "\n".join(f'<p class="summary">{escape(text)}</p>' for text in summary)
    items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{paragraphs}\n"
        f"{''.join(body)}\n<section><h2>Protocol</h2>\n<ul>\n{items}\n</ul></section>\n</main>\n</body>\n</html>\n"
    )


def _plot_section(plot: Plot) -> str:
    figures = [_figure(plot, panel, index) for index, panel in enumerate(plot.panels)]
    return (
        f'<section><h2>{escape(plot.title)}</h2>\n<p class="note">{escape(plot.caption)}</p>\n'
        f'<div class="panels">{"".join(figures)}</div>\n<p class="footer">{escape(plot.footer)}</p></section>\n'
    )


def _figure(plot: Plot, panel: Panel, index: int) -> str:
    heading = f"<figcaption>{escape(panel.title)}</figcaption>" if panel.title != plot.title else ""
    drawing = panel_svg(panel, f"{plot.name}-{index}")
    return f'<figure>{heading}<div role="img" aria-label="{escape(panel.alt)}">{drawing}</div></figure>\n'


def _style() -> str:
    return f"""
:root {{ --ground: #ffffff; --ink: {INK}; --faint: #57606a; --line: #d0d7de; --band: #f6f8fa; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ground: #14171b; --ink: #e6e9ec; --faint: #9aa4ae; --line: #343a41; --band: #1d2126; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }}
h2, caption {{ font-size: 1.2rem; font-weight: 600; text-align: left; margin: 0; padding: 0 0 .4rem; }}
section {{ margin-top: 2.2rem; }}
.summary {{ max-width: 46rem; }}
.note, .footer {{ color: var(--faint); font-size: .85rem; margin: .4rem 0; max-width: 60rem; }}
.footer {{ font-size: .75rem; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; }}
th, td {{ vertical-align: top; }}
thead th {{ color: var(--faint); font-weight: 600; font-size: .8rem; vertical-align: bottom; }}
tbody th {{ font-weight: 500; }}
tr > th:first-child {{ position: sticky; left: 0; background: var(--ground); padding-right: .8rem; }}
.number {{ text-align: right; white-space: nowrap; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1rem; }}
figure {{ margin: 0; padding: .6rem; background: var(--band); border-radius: 8px; }}
figcaption {{ font-weight: 600; font-size: .9rem; }}
figure svg {{ display: block; width: 100%; height: auto; max-width: 34rem; }}
figure svg text {{ fill: currentColor !important; }}
ul {{ padding-left: 1.2rem; max-width: 60rem; }}
li {{ margin-bottom: .4rem; }}
"""
