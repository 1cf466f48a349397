"""The site of docs/: builds without a warning, with a reference of the public names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, ROOT

PUBLIC = [
    "minrl.agents.decision.DecisionAgent",
    "minrl.agents.clone.CloneAgent",
    "minrl.agents.ppo.RecurrentPPO",
    "minrl.agents.ppo_agent.PPOAgent",
    "minrl.tune_cpu",
    "minrl.runs.checkpoint.load",
    "minrl.agent.Agent",
    "minrl.play.Player",
    "minrl.evaluate.evaluate",
    "minrl.scan.mingru_scan",
    "minrl.cells.base.Cell",
    "minrl.backbone.Backbone",
    "minrl.data.load.load",
    "minrl.data.episode.Episodes",
    "minrl.envs.MaskObservation",
    "minrl.online.vector.adapter.as_vec_env",
]


def test_every_page_is_in_the_menu() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}\n" in text, page


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    wheel = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    site, environment = tmp_path / "site", {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    for command in (
        [*wheel, "--upgrade", "--target", "build/wheel", "."],
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
    ):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    assert [name for name in PUBLIC if f'id="{name}"' not in reference] == []
    assert (site / "benchmarks/tmaze/index.html").is_file()
