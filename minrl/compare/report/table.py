"""A table as Markdown, HTML and plain text."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NONE = "\N{EN DASH}"  # empty cell


def markdown(text: str) -> str:
    """Return text on one line for Markdown, in which HTML and the bars of tables stay text."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


@dataclass(frozen=True)
class Table:
    """Title, header, rows of cells, and a note below."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_markdown(self) -> str:
        """Format as Markdown, the title as a second-level heading."""
        rule = ["---", *["---:" if self._is_number(i) else "---" for i in range(1, len(self.head))]]
        cells = [[markdown(cell) for cell in row] for row in (self.head, rule, *self.rows)]
        body = "\n".join("| " + " | ".join(row) + " |" for row in cells)
        return "\n\n".join(part for part in (f"## {markdown(self.title)}", body, markdown(self.note)) if part) + "\n"

    def to_html(self) -> str:
        """Format as HTML, in a box that scrolls on narrow screens."""
        right = [' class="number"' if self._is_number(i) else "" for i in range(len(self.head))]
        head = "".join(f'<th scope="col"{c}>{escape(h)}</th>' for h, c in zip(self.head, right, strict=True))
        body = []
        for first, *others in self.rows:
            cells = [f'<th scope="row">{escape(first)}</th>']
            cells += [f"<td{c}>{escape(cell)}</td>" for cell, c in zip(others, right[1:], strict=True)]
            body.append(f"<tr>{''.join(cells)}</tr>\n")
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(self.title)}"><table>\n'
            f"<caption>{escape(self.title)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(body)}</tbody></table></div>{note}\n"
        )

    def to_text(self) -> str:
        """Format in aligned columns, for the terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        align = [str.rjust if self._is_number(i) else str.ljust for i in range(len(self.head))]
        lines = [
            "  ".join(a(cell, w) for a, cell, w in zip(align, row, widths, strict=True)).rstrip()
            for row in (self.head, *self.rows)
        ]
        return "\n".join([self.title, *lines, *textwrap.wrap(self.note, 120)])

    def _is_number(self, column: int) -> bool:
        """Return True if all cells of a column begin with a number or are empty."""
        cells = [row[column] for row in self.rows if row[column].strip(NONE)]
        return column > 0 and bool(cells) and all(cell.lstrip("+-")[:1].isdigit() for cell in cells)
