"""Download of a Minari set; errors become one line."""

import contextlib
import importlib
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from minrl.data.download import reachable, root_cause
from minrl.data.minari.folders import check_id
from minrl.system.drafts import draft_folder
from minrl.system.files import make_folder


def fetch(dataset_id: str, root: Path, here: str, known: str, *, download: bool) -> Path:
    """Download a set to `root` with Minari and return its folder.

    `here` says what was looked for and where, `known` lists local sets: both go into the message of the ValueError
    that is raised for a malformed id, no network, or a refusal by the server.
    """
    try:
        check_id(dataset_id)
    except ValueError as error:
        raise ValueError(f"{error}; {known}") from error
    if not download:
        raise ValueError(f"{here}, and downloading is off; {known}")
    try:
        host, port = _server()
    except ImportError as error:
        raise ValueError(f"{here}, and Minari's remote needs {error.name}; {known}") from error
    if not reachable(host, port):
        raise ValueError(
            f"{here}, and there is no network to download it: "
            f"copy the set's folder there or set MINARI_DATASETS_PATH; {known}"
        )
    try:
        _download(dataset_id, root)
    except Exception as error:
        raise ValueError(f"{here}, and Minari could not download it: {root_cause(error)}; {known}") from error
    return root / dataset_id


def _server() -> tuple[str, int]:
    """Return the host that a download connects to: a proxy if one is set, else Minari's remote."""
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


def _download(dataset_id: str, root: Path) -> None:
    """Download to a temporary folder and move the result, so that a broken download leaves nothing behind."""
    import minari

    make_folder(root)
    with draft_folder(root, ".download.") as draft:
        with _datasets_path(draft):
            minari.download_dataset(dataset_id)
        for data in sorted(draft.rglob("data")):
            _move(data.parent, root / data.parent.relative_to(draft))
        for namespace in draft.rglob("namespace_metadata.json"):
            _move(namespace, root / namespace.relative_to(draft))


def _move(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


@contextlib.contextmanager
def _datasets_path(folder: Path) -> Iterator[None]:
    """Set Minari's folder, which is an environment variable and no argument, inside the context."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
