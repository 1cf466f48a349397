"""Files whose few bytes ask for much time or memory are refused in one line."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from minrl.zoo import load_zip

# An empty tuple, and sixty times a pair of the last one: 2^60 elements to hash or to print.
ENDLESS = b")" + b"".join(b"q%ch%c\x86" % (number, number) for number in range(60))


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def whole(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(content)]) + content


def named(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def tensor(elements: int = 4, key: bytes = text("0")) -> bytes:
    """Return the pickle of a tensor as torch writes it."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + key + text("cpu") + whole(elements) + b"tQ"
    hooks = named("collections", "OrderedDict") + b")R"
    rest = whole(0) + whole(elements) + b"\x85" + whole(1) + b"\x85\x89" + hooks
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR"


def archive(items: bytes, *more: tuple[str, bytes]) -> bytes:
    """Return a state dict of pickled keys and values, with one record of 16 bytes and `more`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, record in [
            ("a/data.pkl", b"\x80\x04}(" + items + b"u."), ("a/byteorder", b"little"), ("a/data/0", bytes(16)), *more,
            ("a/version", b"3\n"),
        ]:  # fmt: skip
            file.writestr(name, record)
    return content.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a policy and its statistics."""
    place = tmp_path_factory.mktemp("policy")
    environments = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    PPO("MlpPolicy", environments, n_steps=8, batch_size=8, device="cpu").save(place / "good")
    environments.save(str(place / "statistics.pkl"))
    return place


def other(folder: Path, entry: str, content: bytes) -> Path:
    """Write a copy of the policy with other content of one entry."""
    with zipfile.ZipFile(folder / "good.zip") as source, zipfile.ZipFile(folder / "bad.zip", "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name == entry else source.read(name))
    return folder / "bad.zip"


def test_weights(folder: Path) -> None:
    long = bytes(1 << 22)
    for content in (
        archive(text("w") + tensor() + ENDLESS + whole(1)),
        archive(text("w") + tensor(key=ENDLESS)),
        archive(text("w") + b"\x8f(" + ENDLESS + b"\x90"),
        archive(text("w") + b"(" + ENDLESS + b"\x91"),
        archive(text("w") + b"(" + ENDLESS + whole(1) + b"d"),
        archive(text("w") + tensor(1 << 20), ("a/data/0", long)),  # the first or the last of two
        archive(text("w") + tensor(1 << 20), ("b/data/0", long)),
        archive(text("w") + tensor(1 << 20), ("a/DATA/0", long)),
        archive(text("w") + b"](" + b"N" * (9 << 20) + b"e"),
    ):
        with pytest.raises(ValueError, match=r"bad\.zip") as caught:
            load_zip(other(folder, "policy.pth", content))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="settings have more than"):
        load_zip(other(folder, "data", b"[" + b"{}," * (12 << 20) + b"{}]"))


def test_statistics(folder: Path) -> None:
    """Replace parts of a VecNormalize's pickle."""
    found = pickle.loads((folder / "statistics.pkl").read_bytes())
    found.venv = found.class_attributes = found.returns = None
    content = pickle.dumps(found, protocol=3)
    agent = folder / "good.zip"
    (folder / "again.pkl").write_bytes(content)
    assert load_zip(agent, vecnormalize=folder / "again.pkl").standardizer is not None
    values = np.asarray(found.obs_rms.mean).tobytes()
    mean = b"C" + bytes([len(values)]) + values
    items = content.removesuffix(b"ub.") + text("x")
    for bad in (
        content.replace(text("f8"), ENDLESS, 1),
        content.replace(text("f8"), text("f8," * 100_000), 1),
        content.replace(mean, ENDLESS, 1),
        content.replace(mean, whole(1 << 40), 1),
        content.replace(mean, named("_codecs", "encode") + ENDLESS + text("latin1") + b"\x86R", 1),
        items + b"N" + ENDLESS + b"Nub.",
        items + b"\x8f(" + ENDLESS + b"\x90ub.",
        items + b"(" + ENDLESS + b"\x91ub.",
        items + b"](" + b"N" * (9 << 20) + b"eub.",
    ):  # fmt: skip
        assert bad != content
        (folder / "bad.pkl").write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad\.pkl") as caught:
            load_zip(agent, vecnormalize=folder / "bad.pkl")
        assert "\n" not in str(caught.value)
