"""Messages are one short line, JSON has no NaN, and Markdown keeps HTML as text."""

import json
import math
from pathlib import Path

import pytest
from worlds import own_folders

from minrl.agents.__main__ import main
from minrl.compare.report.table import Table
from minrl.system.json_text import to_json
from minrl.system.messages import LONGEST, faults_of, one_line

__all__ = ["own_folders"]


def test_a_long_value_loses_its_middle() -> None:
    text = one_line("begin " + "x" * 10**6 + " end")
    assert len(text) == LONGEST
    assert text.startswith("begin ")
    assert text.endswith(" end")
    assert one_line("a\x1b[2Jb\nc") == "a?[2Jb c"
    assert len(one_line(ValueError("y" * 10**6))) == LONGEST


def test_a_long_value_in_a_config_is_shortened_in_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    for text in (f'[train]\nsteps = "{"x" * 10**6}"\n', f"[train]\n{'y' * 10**6} = 1\n", f"[{'z' * 10**6}]\n"):
        config.write_text(text)
        assert main(["train", "decision", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert len(said) < 1000
        assert said.count("\n") == 1


def test_errors_of_readers_name_their_file() -> None:
    for error in (
        KeyError("x"),
        RecursionError(),
        MemoryError(),
        AssertionError(),
        OverflowError("big"),
        ValueError("v"),
    ):
        with pytest.raises(ValueError, match=r"^FILE") as caught, faults_of("FILE"):
            raise error
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^in FILE: x$"), faults_of("FILE"):
        raise ValueError("in FILE: x")


def test_json_has_no_nan() -> None:
    value = {"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf, "d": "NaN"}}
    assert json.loads(to_json(value)) == {"a": [None, 1.5, [None]], "b": {"c": None, "d": "NaN"}}


def test_html_in_a_report_stays_text() -> None:
    table = Table("<b>t</b>", ["a", "<i>"], [["<script>alert(1)</script>", "x | y & z"]], "<img src=x>")
    assert table.to_markdown() == (
        "## &lt;b&gt;t&lt;/b&gt;\n\n| a | &lt;i&gt; |\n| --- | --- |\n"
        "| &lt;script&gt;alert(1)&lt;/script&gt; | x \\| y &amp; z |\n\n&lt;img src=x&gt;\n"
    )
