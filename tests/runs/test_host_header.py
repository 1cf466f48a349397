"""The dashboard answers browsers that ask for this machine, not for a name that another site controls."""

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from minrl.runs.dashboard import launch
from minrl.runs.host_header import only_known_hosts

KNOWN = [
    "localhost", "localhost:6006", "LOCALHOST", "127.0.0.1:6006", "[::1]:6006", "192.168.1.7", "run.localhost:80",
    "lab.example:443", socket.gethostname(),
]  # fmt: skip
STRANGE = [
    "evil.example",
    "evil.example:6006",
    "localhost.evil.example",
    "127.0.0.1.nip.io:6006",
    "lab.example.org",
    "",
]


def board(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [])
    return [b"secret"]


@pytest.mark.parametrize("header", [*KNOWN, *STRANGE])
def test_other_host_names_are_refused(header: str) -> None:
    said: list[str] = []
    answer = only_known_hosts(board, ["lab.example"])
    body = b"".join(answer({"HTTP_HOST": header}, lambda status, headers: said.append(status)))
    assert said == ["200 OK" if header in KNOWN else "403 Forbidden"]
    assert (body == b"secret") == (header in KNOWN)


def test_the_server_checks_it(tmp_path: Path) -> None:
    address = launch(tmp_path, [], "title", host="localhost", port=0)
    with urllib.request.urlopen(f"{address}data/environment") as answer:
        assert answer.status == 200
    strange = urllib.request.Request(f"{address}data/environment", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(strange)
