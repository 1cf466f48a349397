"""Contents of a Stable-Baselines3 .zip: plain settings and weights, no pickles.

Such a file holds `data`, JSON in which objects that JSON does not know are pickles in base64 beside their plain text
(https://github.com/DLR-RM/stable-baselines3, stable_baselines3/common/save_util.py, 2.9.2), and `policy.pth`, the
state dict of the policy. The pickles are never decoded.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minrl.runs.archive import ZIP_ERRORS, DamagedFileError, check_archive, check_legacy
from minrl.system.messages import one_line

DATA, WEIGHTS = "data", "policy.pth"
# Bytes that an entry may unpack to, and beyond that the ratio to the file's size: save() does not compress.
_SMALL, _MOST_UNPACKED = 1 << 24, 20
# Bytes of the settings, and of the names and shapes of the weights: read, they take up to a hundred times as many.
_LARGEST_SETTINGS, _LARGEST_PICKLE = 1 << 25, 1 << 23
_PICKLED = (":type:", ":serialized:")
_ZIP = b"PK\x03\x04"


class UnreadableError(ValueError):
    """Error of a policy whose own code is needed to act with it; its text is the reason."""


@dataclass(frozen=True)
class Stored:
    """Settings and weights of a file."""

    file: Path
    data: dict[str, Any]  # of JSON; where an object was pickled, a dict of its plain text
    weights: dict[str, Tensor]  # of the policy, by their names in Stable-Baselines3

    def plain(self, name: str) -> Any:
        """Return a setting without its pickle; a dict of plain text if the setting was an object."""
        value = self.data.get(name)
        if isinstance(value, dict):
            return {key: part for key, part in value.items() if key not in _PICKLED}
        return value

    def text_of_class(self, name: str) -> str:
        """Return the text of an object's class, such as "<class 'gym.spaces.box.Box'>", "" if there is none."""
        value = self.data.get(name)
        return str(value.get(":type:", "")) if isinstance(value, dict) else ""


def is_policy_file(path: Path) -> bool:
    """Return True if `path` is a file that should be a policy of Stable-Baselines3: by its name, or by its entries.

    Raises:
        ValueError: if a .zip is not there, or is a pipe or a device.
    """
    if not path.is_file():
        if path.suffix == ".zip" and not path.is_dir():  # a run's folder may have any name
            raise ValueError(_absent(path))
        return False
    if path.suffix == ".zip":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return {DATA, WEIGHTS} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError, UnicodeError):
        return False


def _absent(path: Path) -> str:
    what = f"{path} is no regular file" if path.exists() else f"no file {path}"
    return f"{what}; give a .zip that Stable-Baselines3 or sb3-contrib saved"


def read_stored(file: Path) -> Stored:
    """Read a file; no code in it runs.

    Raises:
        ValueError: if there is none, it is damaged, or it holds no policy.
    """
    if not file.is_file():
        raise ValueError(_absent(file))
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if DATA not in names or WEIGHTS not in names:
                raise ValueError(
                    f"{file}: it holds no policy: was it written by a Stable-Baselines3 algorithm's save()?"
                )
            _check_sizes(file, archive)
            data, weights = (archive.read(name) for name in (DATA, WEIGHTS))
    except ZIP_ERRORS as error:
        raise ValueError(
            f"{file}: not a readable Stable-Baselines3 file: damaged, cut short or no .zip ({one_line(error)})"
        ) from error
    return Stored(file, _settings(file, data), _tensors(file, weights))


def _check_sizes(file: Path, archive: zipfile.ZipFile) -> None:
    """Raise ValueError for entries that unpack to far more than the file holds."""
    allowed = _SMALL + _MOST_UNPACKED * file.stat().st_size
    size = sum(entry.file_size for entry in archive.infolist() if entry.filename in (DATA, WEIGHTS))
    if size > allowed:
        raise ValueError(f"{file}: its entries unpack to {size:,} bytes, {allowed:,} are allowed; refused")
    if archive.getinfo(DATA).file_size > _LARGEST_SETTINGS:
        raise ValueError(f"{file}: its settings have more than {_LARGEST_SETTINGS:,} bytes; refused")


def _settings(file: Path, content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: its settings are no JSON ({one_line(error)})") from error
    if not isinstance(data, dict) or not isinstance(data.get("policy_class"), dict):
        raise ValueError(f"{file}: its settings name no policy_class; was it written by Stable-Baselines3?")
    return data


def _tensors(file: Path, content: bytes) -> dict[str, Tensor]:
    """Read a state dict on the CPU, after the checks of an archive."""
    inner = file / WEIGHTS  # as errors name it
    if content[:4] == _ZIP:
        check_archive(inner, content, largest_pickle=_LARGEST_PICKLE)
    else:
        check_legacy(inner, content, largest_pickle=_LARGEST_PICKLE)
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on a malformed archive
        raise DamagedFileError(f"{inner} holds more than tensors, or is damaged; nothing was loaded") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{inner} holds no state dict of tensors")
    for name, value in weights.items():
        dense = value.layout == torch.strided and not value.is_quantized
        if not dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{inner}: the weights {one_line(name, 80)} have more elements than are stored; refused")
    return {str(name): value for name, value in weights.items()}
