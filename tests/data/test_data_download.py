"""Downloads are resumed, checked and renamed; without a network they fail at once, in one line."""

import http.server
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from test_data_d4rl import at, write
from test_data_minari import check_aligned, create, folders  # noqa: F401

from minrl.data import load
from minrl.data.download import download_file
from minrl.data.minari import download as minari_download

pytestmark = pytest.mark.usefixtures("folders")


class Server(http.server.BaseHTTPRequestHandler):
    """HTTP handler that serves `content` with Range; its fields cut the answer short or misstate its length."""

    content = b""
    cut: int | None = None
    claimed: int | None = None
    ranges = True
    tag = '"first"'
    seen: list[str]

    def do_GET(self) -> None:
        cls = type(self)
        wanted = self.headers.get("Range") or ""
        cls.seen.append(wanted)
        if self.path != "/maze.hdf5":
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and cls.ranges and self.headers.get("If-Range") in (None, cls.tag) else 0
        total = cls.claimed or len(cls.content)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", cls.tag)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        self.wfile.write(cls.content[start : None if cls.cut is None else start + cls.cut])

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    """Serve a file on this machine; yield the handler and the address."""
    handler = type("Handler", (Server,), {"content": bytes(range(256)) * 4000, "seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{running.server_address[1]}/maze.hdf5"
        running.shutdown()


Served = tuple[type[Server], str]


def test_a_download_leaves_its_file_alone(server: Served, tmp_path: Path) -> None:
    handler, address = server
    download_file(address, tmp_path / "in" / "maze.hdf5")
    assert (tmp_path / "in" / "maze.hdf5").read_bytes() == handler.content
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["maze.hdf5"]


def test_a_cut_connection_is_continued_where_it_broke(server: Served, tmp_path: Path) -> None:
    handler, address = server
    handler.cut = 400_000
    download_file(address, tmp_path / "maze.hdf5")
    assert (tmp_path / "maze.hdf5").read_bytes() == handler.content
    assert handler.seen == ["", "bytes=400000-", "bytes=800000-"]


def test_a_later_call_continues_an_earlier_one(server: Served, tmp_path: Path) -> None:
    handler, address = server
    handler.cut = 1000
    with pytest.raises(ValueError, match="only 4000 of 1024000 bytes arrived; run again"):
        download_file(address, tmp_path / "maze.hdf5")
    assert not (tmp_path / "maze.hdf5").exists()
    handler.cut = None
    download_file(address, tmp_path / "maze.hdf5")
    assert handler.seen[-1] == "bytes=4000-"
    assert (tmp_path / "maze.hdf5").read_bytes() == handler.content


def test_a_file_that_changed_since_is_not_joined_to_the_old_piece(server: Served, tmp_path: Path) -> None:
    handler, address = server
    handler.cut = 1000
    with pytest.raises(ValueError, match="run again"):
        download_file(address, tmp_path / "maze.hdf5")
    handler.cut, handler.tag, handler.content = None, '"second"', b"new" * 5000
    download_file(address, tmp_path / "maze.hdf5")
    assert (tmp_path / "maze.hdf5").read_bytes() == handler.content


@pytest.mark.parametrize("part", [b"", b"x" * 2_000_000, bytes(range(256)) * 4000])
def test_any_piece_left_behind_ends_in_the_right_file(server: Served, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "maze.hdf5.part").write_bytes(part)
    download_file(server[1], tmp_path / "maze.hdf5")
    assert (tmp_path / "maze.hdf5").read_bytes() == server[0].content


def test_a_server_without_ranges_is_read_from_the_start(server: Served, tmp_path: Path) -> None:
    (tmp_path / "maze.hdf5.part").write_bytes(b"x" * 10)
    server[0].ranges = False
    download_file(server[1], tmp_path / "maze.hdf5")
    assert (tmp_path / "maze.hdf5").read_bytes() == server[0].content


def test_a_wrong_length_and_a_missing_file_are_refused(server: Served, tmp_path: Path) -> None:
    handler, address = server
    with pytest.raises(ValueError, match="404"):
        download_file(address.replace("maze", "other"), tmp_path / "other.hdf5")
    handler.claimed = len(handler.content) + 5
    with pytest.raises(ValueError, match="only 1024000 of 1024005 bytes"):
        download_file(address, tmp_path / "maze.hdf5")
    assert not (tmp_path / "maze.hdf5").exists()


def test_an_absent_ray_server_gives_one_line(server: Served, tmp_path: Path) -> None:
    address = re.sub(r":\d+/", ":1/", server[1])
    with pytest.raises(ValueError, match="no network"):
        download_file(address, tmp_path / "maze.hdf5")


def test_an_installed_d4rl_gives_addresses_and_scores_without_being_imported(
    server: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "packages" / "d4rl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise Exception('mujoco_py is missing')\n")
    tables = f"DATASET_URLS = {{'maze-v9': '{server[1]}'}}\n"
    (package / "infos.py").write_text(
        f"{tables}REF_MIN_SCORE = {{'maze-v9': 2.0}}\nREF_MAX_SCORE = {{'maze-v9': 4.0}}\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    server[0].content = write(tmp_path / "source.hdf5", terminals=at(5)).read_bytes()
    episodes = load("d4rl:maze-v9")
    assert episodes.reference_scores == (2.0, 4.0)
    np.testing.assert_array_equal(episodes.lengths, [6, 6])
    assert (tmp_path / "d4rl" / "maze.hdf5").is_file()
    assert "d4rl" not in sys.modules
    with pytest.raises(ValueError, match='did you mean "maze-v9"'):
        load("d4rl:maze-v8")
    (tmp_path / "d4rl" / "maze.hdf5").unlink()
    with pytest.raises(ValueError, match="downloading is off"):
        load("d4rl:maze-v9", download=False)


def test_a_look_up_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def connect(*_: object, **__: object) -> None:
        ended.wait()
        raise OSError("the test is over")

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not minari_download.reachable("host.invalid", 443, timeout=0.01)
    ended.set()


def test_a_name_without_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    create("local/hopper-v0")
    monkeypatch.setattr(minari_download, "_server", lambda: ("host.invalid", 443))
    with pytest.raises(ValueError, match=r"local/hoper-v0 is not in .*no network.*did you mean .local/hopper-v0"):
        load("minari:local/hoper-v0")
    with pytest.raises(ValueError, match="downloading is off"):
        load("minari:local/hoper-v0", download=False)


@pytest.mark.parametrize("name", ["minari:two words-v0", "minari:noversion", "minari:../up-v0", "minari:a//b-v0"])
def test_a_malformed_id_is_called_so(name: str) -> None:
    with pytest.raises(ValueError, match="is not a Minari id"):
        load(name)


def test_minari_s_errors_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dataset_id: str) -> None:
        try:
            raise RuntimeError("the line\nis dead")
        except RuntimeError as error:
            raise KeyError(dataset_id) from error

    monkeypatch.setattr(minari_download, "reachable", lambda host, port: True)
    monkeypatch.setattr(minari, "download_dataset", refuse)
    with pytest.raises(ValueError, match="could not download it: the line is dead; "):
        load("minari:far/away-v0")


def test_a_download_arrives_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    create("far/away-v0")
    remote = tmp_path / "remote"
    shutil.move(tmp_path / "sets", remote)
    broken = True

    def fetch(dataset_id: str) -> None:
        target = minari.storage.get_dataset_path(dataset_id)
        shutil.copytree(remote / dataset_id, target)
        if broken:
            raise OSError("cut")

    monkeypatch.setattr(minari_download, "reachable", lambda host, port: True)
    monkeypatch.setattr(minari, "download_dataset", fetch)
    with pytest.raises(ValueError, match="could not download it: cut"):
        load("minari:far/away-v0")
    assert list((tmp_path / "sets").iterdir()) == []
    broken = False
    check_aligned(load("minari:far/away-v0"), (3, 1, 250))
