"""Untrusted HDF5 files: no other file is read, and no more memory taken than they hold data for."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_data_minari import create, folders  # noqa: F401

from minrl.agents.__main__ import main
from minrl.data import hdf5_file, load
from minrl.data.hdf5_file import attributes_of, open_hdf5
from minrl.system.trust import trusting

pytestmark = pytest.mark.usefixtures("folders")
STEPS = 12


def flat(path: Path, **changed: Any) -> Path:
    """Write a flat file of one episode; None leaves a field out."""
    fields = {
        "observations": np.random.default_rng(0).normal(size=(STEPS, 3)),
        "actions": np.ones((STEPS, 1)),
        "rewards": np.arange(STEPS, dtype=np.float64),
        "terminals": np.arange(STEPS) == STEPS - 1,
    } | changed
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            if values is not None:
                file[name] = values
    return path


def external_link(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")  # opening it would wait for a writer
    path = flat(folder / "flat.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink(str(folder / "pipe"), "/rewards")
    return path


def external_link_to_a_group(folder: Path) -> Path:
    flat(folder / "other.hdf5")
    path = flat(folder / "flat.hdf5")
    with h5py.File(path, "a") as file:
        file.create_group("a/b")["c"] = h5py.ExternalLink("other.hdf5", "/")
    return path


def external_storage(folder: Path) -> Path:
    path = flat(folder / "flat.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (STEPS,), np.uint8, external=[("/etc/passwd", 0, STEPS)])
    return path


def virtual(folder: Path) -> Path:
    other = flat(folder / "other.hdf5")
    path = flat(folder / "flat.hdf5", rewards=None)
    layout = h5py.VirtualLayout((STEPS,), np.float64)
    layout[:] = h5py.VirtualSource(other, "rewards", (STEPS,))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("rewards", layout)
    return path


def references(folder: Path) -> Path:
    path = flat(folder / "flat.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=[file["actions"].ref] * STEPS, dtype=h5py.ref_dtype)
    return path


def declared(**shapes: tuple[int, ...]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "flat.hdf5"
        with h5py.File(path, "w") as file:
            for name, shape in shapes.items():
                file.create_dataset(name, shape, np.float32)
        assert path.stat().st_size < 3000
        return path

    return write


def million_steps(count: int, width: int = 3) -> Callable[[Path], Path]:
    return declared(observations=(count, width), actions=(count, 1), rewards=(count,), terminals=(count,))


def one_large_chunk(folder: Path) -> Path:
    path = flat(folder / "flat.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (STEPS,), np.float64, chunks=(1 << 28,), maxshape=(None,))
    return path


def bomb(folder: Path) -> Path:
    """Write a file whose arrays deflate by nearly the most that deflate can."""
    path, count = folder / "flat.hdf5", 4_000_000
    with h5py.File(path, "w") as file:
        for name, shape in (("observations", (count, 20)), ("actions", (count, 1)), ("rewards", (count,))):
            file.create_dataset(name, shape, np.float64, chunks=True, compression="gzip", compression_opts=9)
        file["observations"][:20000] = 0
        file.create_dataset("terminals", (count,), np.bool_)
    return path


FILES = {
    "external link": (external_link, "is a link to another file"),
    "external link to a group": (external_link_to_a_group, "a/b/c is a link to another file"),
    "external storage": (external_storage, "rewards lies in another file"),
    "virtual": (virtual, "rewards lies in another file"),
    "references": (references, "rewards holds neither numbers nor text"),
    "1e8 steps": (million_steps(100_000_000), "declares"),
    "1e6 steps": (million_steps(3_000_000), "declares"),
    "a width of 1e9": (million_steps(3, 1_000_000_000), "declares"),
    "a large chunk": (one_large_chunk, "rewards declares"),
    "hardly anything stored": (bomb, "declares"),
}


@pytest.mark.parametrize("kind", FILES)
def test_untrusted_files_are_refused_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, said = FILES[kind]
    path = write(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["data", "info", f"hdf5:{path}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("minrl: ")
    assert line.count("\n") == 1
    assert str(path) in line
    assert said in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_minari_s_sets_are_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create("some/set-v0")
    folder = Path(os.environ["MINARI_DATASETS_PATH"]) / "some/set-v0/data"
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata.pop("crc32", None)
    box = {"type": "Box", "dtype": "float64", "shape": [10**9], "low": -1.0, "high": 1.0}
    for changes in (
        {"observation_space": json.dumps(box)},
        {"observation_space": json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": 10**12})},
        {"total_steps": 9_000_000_000_000_000},
        {"total_episodes": 10**9, "total_steps": 10**9},
    ):
        (folder / "metadata.json").write_text(json.dumps(metadata | changes))
        assert main(["data", "info", f"hdf5:{folder.parent}"]) == 2
        said = capsys.readouterr().err
        assert str(folder) in said
        assert said.count("\n") == 1
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_2/rewards"]
        file["episode_2/rewards"] = h5py.ExternalLink("x", "/x")
    assert main(["data", "info", f"hdf5:{folder.parent}"]) == 2
    assert "episode_2/rewards is a link to another file" in capsys.readouterr().err
    (folder / "metadata.json").unlink()
    os.mkfifo(folder / "metadata.json")
    assert main(["data", "info", f"hdf5:{folder.parent}"]) == 2
    assert "is no regular file" in capsys.readouterr().err


def test_unwritten_chunks_are_read_on_trust(tmp_path: Path) -> None:
    path, count = tmp_path / "flat.hdf5", 5_000_000
    with h5py.File(path, "w") as file:
        for name, width in (("observations", (4,)), ("actions", (1,)), ("rewards", ())):
            file.create_dataset(name, (count, *width), np.int8)
        file["terminals"] = np.arange(count) % 1000 == 999
    with pytest.raises(ValueError, match="observations declares 20,000,000 bytes and holds 0"):
        load(f"hdf5:{path}", cache=False)
    with trusting(True):
        assert load(f"hdf5:{path}", cache=False, observation_space="Box(-1, 1, (4,))").num_steps == count


def test_attributes_are_read_in_a_child_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the child loop as libhdf5 does on some damaged attributes: one in 2,500 damaged files."""
    path = flat(tmp_path / "flat.hdf5")
    with h5py.File(path, "a") as file:
        file.attrs.update({"env_id": "CartPole-v1", "ref_min_score": 1.5, "flag": np.bool_(True)})
    with open_hdf5(path) as file:
        assert attributes_of(file, ["env_id", "flag", "ref_min_score", "none"]) == {
            "env_id": "CartPole-v1", "flag": True, "ref_min_score": 1.5
        }  # fmt: skip

        def loop(value: Any) -> None:
            while value is not None:
                continue

        monkeypatch.setattr(hdf5_file, "_plain", loop)
        monkeypatch.setattr(hdf5_file, "_SECONDS", 1)
        with pytest.raises(ValueError, match=r"flat.hdf5: its attributes are damaged$"):
            attributes_of(file, ["env_id"])
