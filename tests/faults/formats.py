"""Sample files of each reader, the mutations that fit them, and the commands that read them."""

import csv
import io
import json
import os
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w
import torch
from compare_runs import write_grid
from gymnasium import spaces
from mutants import VALUES, mutate_bytes, mutate_json, mutate_structure, mutate_value
from zip_formats import mutate_statistics, mutate_zip

from minrl.agents.__main__ import main
from minrl.collect.record import collect
from minrl.compare.grid.plan import ComparedTask

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STEPS = 24
CHECKPOINT = ["checkpoint.pt"]
SMALL = ["checkpoint.pt", "config.toml", "progress.csv", "summary.json"]
TINY = ["--width", "8", "--depth", "1", "--steps", "2", "--batch-size", "2", "--length", "16", "--threads", "1"]
PLAYED = ["--episodes", "1", "--max-episode-steps", "3", "--threads", "1", "--json"]
PLAY = ["--evaluate-episodes", "1", "--evaluate-max-steps", "4"]


@dataclass(frozen=True)
class Reader:
    """Reader under test: how its sample is made, which files are mutated, and the command that reads them."""

    make: Callable[[Path], None]  # into an empty folder
    files: Callable[[Path], list[Path]]  # of the sample that may be mutated
    command: Callable[[Path], list[str]] = lambda _: []  # of `minrl`
    read: Callable[[Path], object] | None = None  # called in place of a command, which takes longer


def mutate(folder: Path, reader: Reader, draw: random.Random) -> str:
    """Change one file of a sample; return what was done, for the report."""
    files = reader.files(folder)
    file = draw.choice(files)
    kind = draw.choice(["bytes", "fields", "fields", "structure"])
    if kind == "structure":
        mutate_structure(file, draw)
    elif kind == "fields" and file.suffix in _FIELDS:
        try:
            _FIELDS[file.suffix](file, draw)
        except (TypeError, ValueError, RecursionError, OverflowError):
            kind = "bytes"  # the format cannot hold such a value
            file.write_bytes(mutate_bytes(file.read_bytes(), draw))
    else:
        kind = "bytes"
        file.write_bytes(mutate_bytes(file.read_bytes(), draw))
    return f"{kind} of {file.relative_to(folder)}"


def _toml(file: Path, draw: random.Random) -> None:
    values = tuple(value for value in VALUES if value is not None)
    changed = mutate_value(tomllib.loads(file.read_text()), draw, values)
    file.write_text(tomli_w.dumps(changed))


def _csv(file: Path, draw: random.Random) -> None:
    rows = list(csv.reader(io.StringIO(file.read_text())))
    row = draw.choice(rows)
    row[draw.randrange(len(row))] = str(draw.choice(VALUES))
    if draw.random() < 0.3:
        rows.insert(draw.randrange(len(rows)), row * draw.randint(0, 3))
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    file.write_text(text.getvalue())


def _tensors(value: Any, draw: random.Random) -> Any:
    """Replace one tensor by one of another shape, type or content."""
    if isinstance(value, dict) and value:
        key = draw.choice(list(value))
        value[key] = _tensors(value[key], draw)
        return value
    if not isinstance(value, torch.Tensor):
        return draw.choice(VALUES)
    kinds: list[Callable[[], Any]] = [
        lambda: value.reshape(-1)[:-1],
        lambda: value.double(),
        lambda: value.to(torch.int64),
        lambda: torch.full_like(value, torch.nan) if value.is_floating_point() else value * 0 - 1,
        lambda: torch.zeros(0),
        lambda: value[None],
        lambda: torch.cat([value.reshape(-1)] * 3),
        lambda: value.to_sparse() if value.is_floating_point() and value.ndim else value,
    ]
    return draw.choice(kinds)()


def _checkpoint(file: Path, draw: random.Random) -> None:
    content = torch.load(file, weights_only=True)
    content = _tensors(content, draw) if draw.random() < 0.5 else mutate_value(content, draw)
    torch.save(content, file)


def _hdf5(file: Path, draw: random.Random) -> None:
    with h5py.File(file, "a") as opened:
        names: list[str] = []
        opened.visit(names.append)
        name = draw.choice(names)
        place = opened[name]
        if draw.random() < 0.2:
            place.attrs[draw.choice(["seed", "total_steps", "observation_space", "x"])] = draw.choice(["x", 9e15, -1])
            opened.attrs[draw.choice(_ATTRIBUTES)] = draw.choice(["Box(0, 1, (2,))", "{", "x" * 9000, 9e15, b"\xff"])
            return
        values = place[()] if isinstance(place, h5py.Dataset) else np.zeros(3)
        del opened[name]
        put: list[Callable[[], Any]] = [
            lambda: None,
            lambda: opened.create_group(name),
            lambda: opened.create_dataset(name, data=values[:-1] if values.ndim else values),
            lambda: opened.create_dataset(name, data=np.concatenate([values, values]) if values.ndim else values),
            lambda: opened.create_dataset(name, data=np.asarray(values, np.float64) * np.nan),
            lambda: opened.create_dataset(name, data=np.asarray(values).astype("S8")),
            lambda: opened.create_dataset(name, data=np.asarray(values).astype(np.complex128)),
            lambda: opened.create_dataset(name, data=[str(v) for v in np.ravel(values)]),
            lambda: opened.create_dataset(name, data=values[..., None]),
            lambda: opened.create_dataset(name, data=np.float64(3)),
            lambda: opened.create_dataset(name, data=h5py.Empty("f")),
            lambda: opened.create_dataset(name, (draw.choice([0, 10**6, 10**9, 9 * 10**15]), 2), "f"),
            lambda: opened.create_dataset(name, (3, draw.choice([0, 10**6, 10**9])), "f8", chunks=True),
            lambda: opened.create_dataset(name, (values.shape or (1,)), "u1", external=[("/etc/passwd", 0, 1000)]),
            lambda: opened.__setitem__(name, h5py.ExternalLink("/dev/zero", "/")),
            lambda: opened.__setitem__(name, h5py.SoftLink(f"/{draw.choice(names)}")),
            lambda: opened.create_dataset(name, data=[opened.ref] * 3, dtype=h5py.ref_dtype),
            lambda: opened.create_dataset(name, data=np.zeros(3, [("a", "f4"), ("b", "i8")])),
        ]
        draw.choice(put)()


_ATTRIBUTES = [
    "observation_space",
    "action_space",
    "env_spec",
    "env_id",
    "env_kwargs",
    "ref_min_score",
    "ref_max_score",
]
_FIELDS: dict[str, Callable[[Path, random.Random], None]] = {
    ".json": mutate_json, ".toml": _toml, ".csv": _csv, ".pt": _checkpoint, ".hdf5": _hdf5, ".pkl": mutate_statistics,
    ".zip": lambda file, draw: mutate_zip(file, draw, _tensors),
}  # fmt: skip


def _flat(folder: Path) -> None:
    draw = np.random.default_rng(0)
    with h5py.File(folder / "flat.hdf5", "w") as file:
        file["observations"], file["actions"] = draw.normal(size=(STEPS, 2)), draw.normal(size=(STEPS, 1))
        file["rewards"], file["terminals"] = draw.normal(size=STEPS), np.arange(STEPS) % 8 == 7
        file["timeouts"], file["next_observations"] = np.arange(STEPS) % 12 == 11, draw.normal(size=(STEPS, 2))
        file.attrs["observation_space"], file.attrs["env_id"] = "Box(-inf, inf, (2,))", "MountainCarContinuous-v0"


def _minari(data_format: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import minari

        observation, action = (
            spaces.Dict({"x": spaces.Box(-9, 9, (2,), np.float64), "n": spaces.Discrete(3)}),
            spaces.Discrete(2),
        )
        draw = np.random.default_rng(0)
        episodes = [
            minari.data_collector.EpisodeBuffer(
                id=index,
                observations={"x": list(draw.normal(size=(5, 2))), "n": list(draw.integers(0, 3, 5))},
                actions=list(draw.integers(0, 2, 4)),
                rewards=list(draw.normal(size=4)),
                terminations=[False] * 3 + [True],
                truncations=[False] * 4,
                infos={},
            )
            for index in range(3)
        ]
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                "set-v0", episodes, observation_space=observation, action_space=action, data_format=data_format
            )

    return make


def _run(folder: Path) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "sets")
    collect("random", "CartPole-v1", 3, "test/cartpole-v0", progress=False)
    data = f"hdf5:{folder / 'sets/test/cartpole-v0'}"
    assert main(["train", "decision", "--data", data, *TINY, *PLAY, "--out", str(folder / "run")]) == 0


def _compared(folder: Path) -> None:
    _run(folder)
    for method in ("mingru", "gru"):
        for seed in (0, 1):
            shutil.copytree(folder / "run", folder / f"compared/runs/cartpole/{method}/seed_{seed}")
    task = ComparedTask("cartpole", "offline", f"hdf5:{folder / 'sets/test/cartpole-v0'}", "CartPole")
    write_grid(folder / "compared", (0, 1), (task,))
    (folder / "compared/state.json").write_text(json.dumps({"x": {"state": "failed", "reason": "y"}}))


def _configs(folder: Path) -> None:
    (folder / "config.toml").write_text(
        '[decision]\nwidth = 8\ndepth = 1\ncell = "mingru"\ncell_options = {candidate = "tanh"}\n'
        '[train]\nsteps = 4\nlearning_rate = 1e-3\nseed = 3\neval_env = "CartPole-v1"\ndecay = "cosine"\n'
    )


def _grid(folder: Path) -> None:
    (folder / "grid.toml").write_text(
        'title = "t"\ncells = ["mingru", "gru"]\nseeds = 2\n[tasks.one]\nenv = "CartPole-v1"\nlow = 0.0\nhigh = 500.0\n'
        '[tasks.one.published]\nDT = 3.0\n[online.train]\nsteps = 64\n[methods.big]\ncell = "mingru"\nlabel = "b"\n'
        "[methods.big.online.ppo]\nwidth = 16\n[sweep]\nlearning_rate = [1e-3, 3e-3]\n"
    )


def _resume(folder: Path) -> list[str]:
    return ["train", "--resume", str(folder / "run")]


def _report_only(folder: Path) -> list[str]:
    return ["compare", str(folder / "compared"), "--report-only"]


def _data_files(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / "set-v0/data").rglob("*")) if path.is_file()]


def _info(folder: Path) -> list[str]:
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    return ["data", "info", "minari:set-v0"]


READERS: dict[str, Reader] = {
    "flat HDF5": Reader(_flat, lambda f: [f / "flat.hdf5"], lambda f: ["data", "info", f"hdf5:{f / 'flat.hdf5'}"]),
    "Minari HDF5": Reader(_minari("hdf5"), _data_files, _info),
    "arrow": Reader(_minari("arrow"), _data_files, _info),
    "parquet": Reader(_minari("parquet"), _data_files, _info),
    "checkpoint": Reader(
        _run,
        lambda f: [f / "run/checkpoint.pt"],
        lambda f: ["evaluate", str(f / "run"), *PLAYED],
    ),
    "run folder": Reader(
        _run,
        lambda f: [f / "run" / name for name in SMALL if (f / "run" / name).exists()],
        _resume,
    ),
    "comparison": Reader(
        _compared,
        lambda f: [
            path for path in sorted((f / "compared").rglob("*")) if path.suffix in (".json", ".csv", ".toml", ".pt")
        ],
        _report_only,
    ),
    "config": Reader(
        _configs,
        lambda f: [f / "config.toml"],
        lambda f: ["train", "decision", "--config", str(f / "config.toml"), "--out", str(f / "run")],
    ),
    "grid": Reader(
        _grid,
        lambda f: [f / "grid.toml"],
        lambda f: ["compare", str(f / "grid.toml"), "--dry-run", "--out", str(f / "out")],
    ),
}
