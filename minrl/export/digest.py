"""SHA-256 of an exported file in a file beside it, in the form of `sha256sum`, as ONNX has no checksum of its own."""

import hashlib
from pathlib import Path

from minrl.system.files import replacing

SUFFIX = ".sha256"


def write_digest(path: Path) -> None:
    """Write the digest of `path` to NAME.sha256 beside it, for `sha256sum --check NAME.sha256`."""
    beside = path.with_name(path.name + SUFFIX)
    with replacing(beside) as temporary:
        temporary.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n", encoding="utf-8")
