"""Check of the Host header: a page of another site must not read the dashboard through a name that it controls.

A hostile page whose name resolves first to its own server and then to 127.0.0.1 makes a browser read the dashboard for
it (DNS rebinding). The browser still sends that name, so that it can be refused.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]  # as WSGI has it


def only_known_hosts(board: Application, names: Iterable[str]) -> Application:
    """Wrap `board` so that it answers only requests to this machine: an address, localhost, its names, or `names`."""
    known = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *(name.lower() for name in names)}

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        host = host_of(str(environment.get("HTTP_HOST", "")))
        if host in known or host.endswith(".localhost") or is_address(host):
            return board(environment, start)
        text = b"This host name is not known here: allow it with minrl dashboard --allow-host NAME\n"
        start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
        return [text]

    return answer


def host_of(header: str) -> str:
    """Return the host of a Host header in small letters, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower().rstrip(".")


def is_address(host: str) -> bool:
    """Return True if a host is an IP address, which no name can stand for."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
