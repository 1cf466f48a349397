"""Fetching a Minari set, with one clear line for whatever goes wrong."""

import contextlib
import importlib
import os
import re
import shutil
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

_ID = re.compile(r"(?:[-_\w]+/)*[-_\w]+-v\d+")
_PROBE_SECONDS = 1.5


def fetch(dataset_id: str, root: Path, here: str, known: str, *, download: bool) -> Path:
    """Download into `root` through Minari and return the set's folder.

    `here` says what was looked for and where, `known` which sets are at hand: both go into the message of the
    ValueError raised for a malformed id, no network, or a refusal by the server.
    """
    if not _ID.fullmatch(dataset_id):
        raise ValueError(
            f"{dataset_id!r} is not a Minari id, which looks like namespace/name-v0 (letters, digits, - and _); {known}"
        )
    if not download:
        raise ValueError(f"{here}, and downloading is off; {known}")
    try:
        host, port = _server()
    except ImportError as error:
        raise ValueError(f"{here}, and Minari's remote needs {error.name}; {known}") from error
    if not reachable(host, port):
        raise ValueError(
            f"{here}, and there is no network to fetch it: "
            f"copy the set's folder there or set MINARI_DATASETS_PATH; {known}"
        )
    try:
        _download(dataset_id, root)
    except Exception as error:
        raise ValueError(f"{here}, and Minari could not download it: {root_cause(error)}; {known}") from error
    return root / dataset_id


def root_cause(error: BaseException) -> str:
    """The innermost reason of an error as one line; no network library is named or imported."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__ or (error if error.__suppress_context__ else error.__context__) or error
    return " ".join(str(error).split())[:300] or type(error).__name__


def _server() -> tuple[str, int]:
    """The host that a download talks to first: a proxy if one is set, else Minari's remote."""
    from minari.storage.remotes import DEFAULT_REMOTE

    remote = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    if remote.startswith("hf:"):
        from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

        if HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set", 0
        address = ENDPOINT
    else:
        address = importlib.import_module("google.cloud.storage._http").Connection.API_BASE_URL
    target = urlsplit(address)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"//{proxy}")
    return target.hostname or "", target.port or (80 if target.scheme == "http" else 443)


def reachable(host: str, port: int, timeout: float = _PROBE_SECONDS) -> bool:
    """Whether a TCP connection opens in time, the name's look-up (which has no time limit of its own) included."""
    answers: list[bool] = []

    def probe() -> None:
        with contextlib.suppress(OSError, UnicodeError, ValueError, OverflowError):
            socket.create_connection((host, port), timeout=timeout).close()
            answers.append(True)

    if port == 0:
        return False
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers)


def _download(dataset_id: str, root: Path) -> None:
    """Download beside the final place and move what came, so that a broken download leaves nothing behind."""
    import minari

    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".download.", dir=root))
    try:
        with _datasets_path(draft):
            minari.download_dataset(dataset_id)
        for data in sorted(draft.rglob("data")):
            _move(data.parent, root / data.parent.relative_to(draft))
        for namespace in draft.rglob("namespace_metadata.json"):
            _move(namespace, root / namespace.relative_to(draft))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


@contextlib.contextmanager
def _datasets_path(folder: Path) -> Iterator[None]:
    """Minari knows no argument for its folder, only this variable."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
