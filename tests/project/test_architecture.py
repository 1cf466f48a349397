"""Rules of the tree: allowed imports, lengths of files, contents of the wheel."""

import ast
import subprocess
import sys
import zipfile
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
# Folders and the packages that they are.
HOUSES = {
    "minrl": "minrl", "agents": "minrl.agents", "envs": "minrl.envs", "benchmarks/reproduce": "minrl.reproduce"
}  # fmt: skip
SOURCES = sorted(path for folder in HOUSES for path in (ROOT / folder).rglob("*.py"))
# The only file of a package that may import another.
DOORS = {ROOT / "agents/cli/reproduce.py": "minrl.reproduce"}
# Modules that run where only torch is installed.
BARE = [
    *(ROOT / "minrl" / name for name in ("scan.py", "system/names.py", "system/malloc.py", "__init__.py")),
    *sorted(path for room in ("kernels", "cells", "backbone", "nn") for path in (ROOT / "minrl" / room).rglob("*.py")),
]
# An import leads to a lower floor or stays in its room: the innermost one of a module.
FLOORS = [
    ["minrl.system", "minrl.kernels"],
    ["minrl.scan", "minrl.data"],
    ["minrl.cells", "minrl.agent"],
    ["minrl.backbone", "minrl.nn", "minrl.play"],
    ["minrl.models", "minrl.evaluate"],
    ["minrl.runs"],
    ["minrl.training", "minrl.online", "minrl.compare"],
    ["minrl.zoo"],
    ["minrl.collect", "minrl.export", "minrl.bench"],
    ["minrl.agents"],
    ["minrl.agents.__main__", "minrl.agents.cli"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The command line has two places.
ROOMS = {"minrl.agents.__main__": "minrl.agents.cli"}
# The compilers of kernels, imported lazily.
COMPILERS = {"numba", "llvmlite", "triton"}


@cache
def imported(source: str, package: str) -> list[tuple[str, bool]]:
    """List (absolute name, is relative) of each module that a file of `package` imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # `from minrl import agents` names a module too.
            found += [(f"{base}.{alias.name}", node.level > 0) for alias in node.names]
    return found


def package_of(path: Path) -> str:
    """Return the import name of the package that holds `path`."""
    house = next(folder for folder in HOUSES if path.is_relative_to(ROOT / folder))
    return ".".join([HOUSES[house], *path.relative_to(ROOT / house).parent.parts])


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def faults(source: str, package: str) -> list[str]:
    """List the imports of a file of `package` that break the naming rule."""
    found = []
    for name, relative in imported(source, package):
        houses = [house for house in HOUSES.values() if house != "minrl" and within(name, house)]
        own = [house for house in houses if within(package, house)]
        bare = name.split(".")[0] in ("agents", "envs", "benchmarks", "reproduce")
        if bare or houses != own or (own and not relative):
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_within_the_package(path: Path) -> None:
    found = faults(path.read_text(encoding="utf-8"), package_of(path))
    assert [name for name in found if path not in DOORS or not within(name, DOORS[path])] == []


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("import agents.decision", "minrl.agents"),
        ("from minrl.agents.decision import DecisionAgent", "minrl.agents"),
        ("import minrl.agents.clone", "minrl.agents"),
        ("from minrl import envs", "minrl.agents"),
        ("from ..agents import decision", "minrl.envs"),
        ("from minrl.envs import tmaze", "minrl.agents"),
        ("def f():\n    from minrl.agents import decision", "minrl"),
        ("from .agents import decision", "minrl"),
        ("from .. import envs", "minrl.data"),
        ("from minrl.reproduce import EXPERIMENTS", "minrl.agents"),
        ("from minrl.reproduce.frame import Request", "minrl.reproduce"),
        ("from minrl.agents import decision", "minrl.reproduce"),
        ("from benchmarks.reproduce import frame", "minrl.reproduce"),
    ],
)
def test_the_rule_finds_violations(source: str, package: str) -> None:
    assert faults(source, package)


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("from .clone import CloneAgent", "minrl.agents"),
        ("from . import clone", "minrl.agents"),
        ("from minrl.agent import Agent", "minrl.agents"),
        ("from minrl import checkpoint", "minrl.agents"),
        ("import torch", "minrl"),
        ("from .frame import Request", "minrl.reproduce"),
        ("from minrl.backbone import Backbone", "minrl.reproduce"),
    ],
)
def test_the_rule_accepts_allowed_imports(source: str, package: str) -> None:
    assert not faults(source, package)


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    package = package_of(path)
    return package if path.name == "__init__.py" else f"{package}.{path.stem}"


def room_of(module: str) -> str | None:
    """Return the innermost room of a module; None outside of the floors."""
    return max((room for room in FLOOR if within(module, room)), key=len, default=None)


def imports_of_ours() -> dict[str, set[str]]:
    """Return the modules of minrl that each module of the floors imports."""
    modules = {module_of(path): path for path in SOURCES}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        if room_of(module):
            names = [name for name, _ in imported(path.read_text(encoding="utf-8"), package_of(path))]
            found[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & modules.keys()
    return found


def test_an_import_goes_down() -> None:
    upward = []
    for module, names in imports_of_ours().items():
        for name in names:
            room, other = room_of(module), room_of(name)
            if room is None or other is None or ROOMS.get(room, room) == ROOMS.get(other, other):
                continue
            if FLOOR[other] >= FLOOR[room]:
                upward.append(f"{module} -> {name}")
    assert upward == []


def test_no_import_goes_in_a_circle() -> None:
    graph = {module: sorted(names) for module, names in imports_of_ours().items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_every_module_has_a_room() -> None:
    homeless = [module for module in map(module_of, SOURCES) if within(module, "minrl") and not room_of(module)]
    assert [
        module for module in homeless if not within(module, "minrl.envs") and not within(module, "minrl.reproduce")
    ] == ["minrl"]


def test_rooms_are_small() -> None:
    loose = [path.name for path in (ROOT / "minrl").glob("*.py")]
    assert len(loose) <= 5, loose
    folders = {path.parent for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]}
    sizes = {str(folder): len(list(folder.glob("*.py"))) for folder in folders if folder != ROOT / "minrl/cells"}
    assert {folder: size for folder, size in sizes.items() if size > 20} == {}


def test_no_file_is_long() -> None:
    tests = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*SOURCES, *tests]}
    assert {str(path): length for path, length in lengths.items() if length > 300} == {}
    assert sorted(lengths[path] for path in SOURCES)[len(SOURCES) // 2] <= 120


@pytest.mark.parametrize("path", BARE, ids=lambda path: str(path.relative_to(ROOT)))
def test_sequence_models_need_torch_alone(path: Path) -> None:
    allowed = {"torch", "numpy"} | set(sys.stdlib_module_names)
    if path.is_relative_to(ROOT / "minrl/kernels"):
        allowed |= COMPILERS
    ours = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in BARE}
    for name, _ in imported(path.read_text(encoding="utf-8"), package_of(path)):
        is_lazy = path == ROOT / "minrl/__init__.py" and name == "minrl.runs.checkpoint.load"
        assert name.split(".")[0] in allowed or any(within(name, own) for own in ours - {"minrl"}) or is_lazy, name


def test_every_package_is_mapped_and_there() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    wheel = settings["targets"]["wheel"]
    inside = {"minrl": "minrl", **{folder: name.replace("/", ".") for folder, name in wheel["sources"].items()}}
    assert inside == {**HOUSES, "configs": "minrl.configs"}
    assert set(wheel["only-include"]) == set(inside)
    for path in SOURCES:
        assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    copy = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([*command, "-w", tmp_path, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("minrl-*.whl"))).namelist())
    for path in SOURCES:
        assert f"{package_of(path).replace('.', '/')}/{path.name}" in names
    assert "minrl/reproduce/data/as_you_like_it.txt" in names
    assert any(name.startswith("minrl/data/shipped/") and name.endswith(".hdf5") for name in names)
    assert "minrl/py.typed" in names
    for config in (ROOT / "configs").rglob("*.toml"):
        assert f"minrl/{config.relative_to(ROOT)}" in names
    assert not any(
        name.split("/")[0] in ("agents", "envs", "configs", "tests", "benchmarks", "reproduce") for name in names
    )
