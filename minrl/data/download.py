"""Download of one file over HTTP: resumed after a cut, its length checked, renamed when complete."""

import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from minrl.system.messages import one_line

_ATTEMPTS = 4
_TIMEOUT = 30.0
_PROBE_SECONDS = 1.5
_PIECE = 1 << 20


def download_file(address: str, target: Path) -> None:
    """Download `address` to `target` by way of `target.part`, which a later call resumes.

    Raises ValueError, one line: no network (within two seconds), refused by the server, or still incomplete.
    """
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not proxy and not reachable(parts.hostname or "", port):
        raise ValueError(f"there is no network to download it (no answer from {parts.hostname})")
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            total = _continue(address, partial)
            if total is not None and partial.stat().st_size == total:
                partial.rename(target)
                return
    except urllib.error.HTTPError as error:
        raise ValueError(f"the server refuses {address}: {error.code} {error.reason}") from error
    except OSError as error:
        raise ValueError(f"{address} cannot be downloaded: {root_cause(error)}") from error
    size = partial.stat().st_size if partial.exists() else 0
    raise ValueError(f"{address}: only {size} of {total or 'unknown'} bytes arrived; run again to resume")


def _continue(address: str, partial: Path) -> int | None:
    """Make one connection; return the length of the whole file, None if the download must start again."""
    have = partial.stat().st_size if partial.exists() else 0
    validator = partial.with_name(f"{partial.name}.tag")
    request = urllib.request.Request(address)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if validator.exists():  # else a file that has changed since would be appended to the old piece
            request.add_header("If-Range", validator.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have):
            return have
        partial.unlink()
        return None
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag and not resumed:
            validator.write_text(tag)
        _save(response, partial, have, None if length is None else have + int(length))
    total_size = partial.stat().st_size if length is None else have + int(length)
    if partial.stat().st_size == total_size:
        validator.unlink(missing_ok=True)
    return total_size


def _save(response: http.client.HTTPResponse, partial: Path, have: int, total: int | None) -> None:
    progress = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=partial.stem, leave=False)
    with partial.open("ab" if have else "wb") as file, progress:
        try:
            while piece := response.read(_PIECE):
                file.write(piece)
                progress.update(len(piece))
        except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
            # A cut connection: keep what arrived, the next attempt resumes after it.
            file.write(getattr(error, "partial", b""))


def root_cause(error: BaseException) -> str:
    """Return the innermost cause of an error as one line, whichever network library raised it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__ or (error if error.__suppress_context__ else error.__context__) or error
    return one_line(error)[:300]


def reachable(host: str, port: int, timeout: float = _PROBE_SECONDS) -> bool:
    """Return True if a TCP connection opens in time, including the DNS look-up, which has no time limit itself."""
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
