"""First view of the dashboard: every point of every chart, and the swept settings."""

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tensorboard
from boards import Board, offline
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from worlds import cartpole, own_folders

from minrl.runs.dashboard import _with_charts
from minrl.runs.tensorboard import experiment

__all__ = ["cartpole", "own_folders"]


def test_charts_are_scaled_with_outliers() -> None:
    """Turn off the setting of TensorBoard's pages that would leave single points out."""
    status: list[Any] = []
    served = _with_charts(lambda environment, start: [b"TensorBoard"], ["a", "b"])
    answer = served({"PATH_INFO": "/charts", "REQUEST_METHOD": "GET"}, lambda *said: status.append(said))
    page = b"".join(answer).decode()
    assert status[0][0] == "200 OK"
    (key, value) = re.findall(r'localStorage\.setItem\("(\w+)", "(\w+)"\)', page)[0]
    assert value == "false"
    assert page.index("localStorage") < page.index("location.replace")
    with zipfile.ZipFile(Path(tensorboard.__file__).with_name("webfiles.zip")) as files:
        bundle = files.read("index.js").decode(errors="replace")
    assert re.search(rf'"{key}",\{{defaultValue:!0,useLocalStorage:!0\}}', bundle)


@pytest.mark.plots
@pytest.mark.parametrize(
    ("settings", "shown"),
    [({"target_sweep": "last"}, False), ({"target_sweep": "all"}, True), ({"evaluate_every": 12}, False)],
)
def test_achieved_return_over_target_return(
    settings: dict[str, Any], shown: bool, cartpole: str, tmp_path: Path
) -> None:
    """Show one evaluation of several targets as a picture; as a chart over steps its points would coincide."""
    offline(cartpole, tmp_path / "run", **settings)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert events.Images("eval/targets")
    (layout_event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(layout_event.tensor_proto.string_val[0])
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    found = [name for tag in tags for name in events.Tags()["scalars"] if re.match(tag, name) and "target_" in name]
    assert len(found) == (5 if shown else 0)
    # No chart of a single run is empty.
    assert all(any(re.match(tag, name) for name in events.Tags()["scalars"]) for tag in tags)


def test_swept_settings_are_among_the_columns_shown() -> None:
    """Show settings that differ within one agent first, among runs of two agents that differ in nearly all."""
    decision = {"agent": "decision", "cell": "mingru", "data": "minari:a", "width": 16.0, "context": 5, "seed": "0"}
    runs: list[dict[str, Any]] = [
        {**decision, "learning_rate": rate, "depth": depth, "seed": seed}
        for rate in (1e-3, 3e-3)
        for depth in (1, 2)
        for seed in ("0", "1")
    ]
    runs.append({"agent": "ppo", "cell": "minlstm", "env": "A-v0", "width": 64.0, "gamma": 0.9, "n_envs": 4})
    (value,) = experiment(runs, ["train/loss"]).value
    infos = metadata.parse_experiment_plugin_data(value.metadata.plugin_data.content).hparam_infos
    first = {info.name for info in infos if info.differs}
    # TensorBoard shows five columns, those that differ first.
    assert {"learning_rate", "depth"} <= first
    assert len(first) == 5
    assert {info.name for info in infos} == {name for run in runs for name in run}


def test_a_run_that_begins_later_is_not_filtered_out(cartpole: str, tmp_path: Path) -> None:
    """Leave text columns without a list of values, as TensorBoard hides rows whose value is not in it."""
    offline(cartpole, tmp_path / "runs/a")
    board = Board(tmp_path / "runs")
    try:
        board.wait_for_runs({"a"})
        offline(cartpole, tmp_path / "runs/b", seed=3)
        board.wait_for_runs({"a", "b"})
        infos = board.get("data/plugin/hparams/experiment", {"experimentName": ""})["hparamInfos"]
        assert [info["name"] for info in infos if info["type"] == "DATA_TYPE_STRING" and "domainDiscrete" in info] == []
        assert board.table()["b"]["seed"] == "3"
    finally:
        board.process.kill()
