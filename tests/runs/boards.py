"""Runs for the dashboard, and the dashboard in a process of its own."""

import base64
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.training.offline import TrainConfig, train

OFFLINE: dict[str, Any] = {
    "steps": 12,
    "batch_size": 2,
    "length": 32,
    "log_every": 4,
    "evaluate_every": 6,
    "evaluate_episodes": 2,
    "validation": 0.2,
    "validate_every": 4,
    "target_sweep": "all",
    "threads": 1,
}


def offline(data: str, out: Path, **settings: Any) -> None:
    train(DecisionAgent, DecisionConfig(width=8, depth=1), TrainConfig(data=data, **OFFLINE | settings), out)


class Board:
    """`minrl dashboard` in a process of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "minrl.agents", "dashboard", str(folder), "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline() for _ in range(4)]
        found = re.search(r"http://[^/]+/", "".join(self.said))
        assert found, (self.said, self.process.communicate())
        self.address = found[0]

    def get(self, path: str, body: Any = None) -> Any:
        """Return the answer to a request, waiting for files that are read in the background."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def wait_for_runs(self, names: set[str]) -> dict[str, list[str]]:
        """Wait until these runs are read; return the names of the curves of each."""
        while (tags := self.get("data/plugin/scalars/tags")).keys() != names:
            time.sleep(0.2)
        return {run: list(found) for run, found in tags.items()}

    def charts_page(self) -> str:
        """Fetch the page of charts as a browser does."""
        with urllib.request.urlopen(self.address + "charts") as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert answer.headers["Cache-Control"] == "no-store"
            page: str = answer.read().decode()
        return page

    def ticked(self) -> dict[str, bool]:
        """Return the runs that the page of charts shows, by the address that it leads to."""
        found = re.search(r'location\.replace\("([^"]+)"\)', self.charts_page())
        assert found
        page, smoothing, state = found[1].split("&")
        assert (page, smoothing) == ("./#custom_scalars", "_smoothingWeight=0")
        key, value = state.split("=")
        assert key == "runSelectionState"
        ticked: dict[str, bool] = json.loads(base64.b64decode(value, validate=True))
        return ticked

    def layout(self) -> dict[str, dict[str, list[str]]]:
        """Return the regular expressions of the curves of each chart of each category."""
        answer = self.get("data/plugin/custom_scalars/layout")
        return {c["title"]: {t["title"]: t["multiline"]["tag"] for t in c["chart"]} for c in answer["category"]}

    def table(self) -> dict[str, dict[str, Any]]:
        """Return hyper-parameters and final values of each session."""
        experiment = self.get("data/plugin/hparams/experiment", {"experimentName": ""})
        columns = [{"metric": info["name"]} for info in experiment["metricInfos"]]
        columns += [{"hparam": info["name"]} for info in experiment["hparamInfos"]]
        wanted = {"experimentName": "", "allowedStatuses": STATUSES, "colParams": columns, "sliceSize": 100}
        groups = self.get("data/plugin/hparams/session_groups", wanted)["sessionGroups"]
        assert all(len(group["sessions"]) == 1 for group in groups)
        rows = {}
        for group in groups:
            (session,) = group["sessions"]
            values = {metric["name"]["tag"]: metric["value"] for metric in session["metricValues"]}
            rows[session["name"]] = {**group["hparams"], **values, "status": session["status"]}
        return rows

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; return exit code and standard error."""
        self.process.send_signal(number)
        _, error = self.process.communicate()
        return self.process.returncode, error


STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
