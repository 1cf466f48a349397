"""The installed package: found from any folder, with its configs, and hints that name real packages."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from minrl.agents.__main__ import main
from minrl.system.config import read_tables
from minrl.system.extras import PACKAGES, install_hint
from minrl.system.shipped_configs import find_config, shipped_configs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
LOOK = """
import minrl, minrl.agents.decision, minrl.envs
from pathlib import Path
assert callable(minrl.load) and callable(minrl.tune_cpu), dir(minrl)
print(Path(minrl.__file__).resolve().parent)
print(*dir(minrl))
"""


def test_python_beside_the_checkout_finds_the_package(tmp_path: Path) -> None:
    """Find the installed package though the working folder holds a folder called minrl, as a clone does."""
    (tmp_path / "minrl").mkdir()
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(ROOT / "minrl"), "__version__ load tune_cpu"]


def test_the_unpacked_wheel_is_whole(tmp_path: Path) -> None:
    """Use the wheel alone, outside the checkout: imports, configs by name, a grid of which nothing is measured."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    zipfile.ZipFile(next(tmp_path.glob("minrl-*.whl"))).extractall(tmp_path / "site")
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv[0] = 'minrl'\n{LOOK}"
    program += "from minrl.agents.__main__ import main; sys.exit(main(['compare', 'memory', '--dry-run']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "site/minrl")
    assert "210 to do" in done.stdout


@pytest.mark.parametrize("name", ["configs/online/cartpole.toml", "online/cartpole", "cartpole", "cartpole.toml"])
def test_shipped_configs_go_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == ROOT / "configs/online/cartpole.toml"


def test_every_shipped_config_has_a_name_of_its_own() -> None:
    names = [name.rpartition("/")[2] for name in shipped_configs()]
    assert len(set(names)) == len(names) == len(list((ROOT / "configs").rglob("*.toml")))


def test_a_file_of_the_users_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cartpole").write_text("seeds = 7")
    assert read_tables(find_config("cartpole"), "config") == {"seeds": 7}


@pytest.mark.parametrize(
    "words", [["train", "decision", "--out", "x", "--config", "dem"], ["train", "ppo", "--config", "dem", "--out", "x"]]
)
def test_an_unknown_config_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err == (
        'minrl: config dem cannot be read: no such file, nor a config that ships; did you mean "demo"?\n'
    )


def test_hints_name_what_the_extras_install() -> None:
    """Compare the names in hints with pyproject.toml; minrl's own dependencies need no naming."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    def names(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in extras[extra]:
            if own := re.fullmatch(r"minrl\[(.*)\]", requirement):
                found |= {name for part in own[1].split(",") for name in names(part)}
            else:
                found.add(re.split(r"[<>=;]", requirement)[0])
        return found - {"torch"}

    assert {extra: set(packages) for extra, packages in PACKAGES.items()} == {
        extra: names(extra) for extra in extras if extra not in ("dev", "docs")
    }


def test_hints_can_be_pasted() -> None:
    assert install_hint("robotics") == "pip install gymnasium-robotics 'gymnasium[mujoco]'"
    for folder in ("minrl", "agents", "envs", "configs"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".toml"):
                assert not re.search(r"pip install ['\"]?minrl\[", path.read_text(encoding="utf-8")), path
