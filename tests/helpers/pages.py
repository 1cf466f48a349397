"""Pages of documentation, executed: the blocks of a page run one after another in one folder.

Commands of `minrl` and Python run in this process. What takes long is cut down: trainings to a few steps of a small
network, evaluations to one short episode; servers and long experiments show their help. Other commands are checked
against what is there: targets of make, installed packages, files and their flags.
"""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from minrl.agents.__main__ import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# ([\w./]+\.(?:toml|py))\n")
_OFFLINE = (
    "--steps 3 --width 16 --depth 1 --length 64 --batch-size 2 --evaluate-episodes 1 --evaluate-max-steps 20 "
    "--threads 1 --checkpoint-every 2"
)
_ONLINE = (
    "--steps 64 --n-steps 16 --n-envs 2 --batch-size 16 --n-epochs 1 --evaluate-episodes 1 --evaluate-max-steps 20 "
    "--threads 1"
)
_LEARN = re.compile(r"\.learn\([\d_]+\)")
# Flags appended to a command; of a flag given twice, the second counts.
_CUT = {
    "train decision": _OFFLINE,
    "train clone": _OFFLINE,
    "train weighted": _OFFLINE,
    "train ppo": _ONLINE,
    "train sac --data": _OFFLINE,
    "train sac": (
        "--steps 80 --train-freq 16 --gradient-steps 1 --n-envs 2 --batch-size 32 --learning-starts 64 --width 16 "
        "--segment-length 8 --evaluate-episodes 1 --evaluate-max-steps 20 --threads 1"
    ),
    "train --resume": "--steps 66",
    "evaluate": "--episodes 1 --max-episode-steps 20",
    "collect": "--episodes 2",
    "compare": "--dry-run",
    "bench": "--help",
    "dashboard": "--help",
    "reproduce": "--help",
    "reproduce parameter_ratios": "",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each block."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a bash block; a line may go on after a backslash."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def write(folder: Path, text: str) -> Path | None:
    """Write a block under the name in its first line; None where it has none."""
    named = _NAME.match(text)
    if named is None:
        return None
    path = folder / named[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def run_page(page: Path, folder: Path) -> str:
    """Run the blocks of a page in `folder`, which is the current one; return what they printed."""
    printed = io.StringIO()
    for kind, text in blocks(page):
        with contextlib.redirect_stdout(printed):
            if kind == "bash":
                for words in commands(text):
                    run_command(words)
            elif kind == "python":
                path = write(folder, text)
                cut = _LEARN.sub(".learn(256)", text)
                exec(compile(cut, str(path or page), "exec"), {"__name__": "__main__"})
            elif kind == "c":
                _compile(folder, text)
            elif kind == "toml":
                assert write(folder, _narrow(text)), text
                tomllib.loads(text)
    return printed.getvalue()


def _narrow(text: str) -> str:
    """Return the grid of a comparison with small networks, whose steps are measured in less time; else the text."""
    small = "".join(f"\n[offline.{agent}]\nwidth = 16\ndepth = 1\n" for agent in ("decision", "clone", "offline_sac"))
    return text + small if "\n[tasks." in text and "\n[offline." not in text.replace("[offline.train]", "") else text


def run_command(words: list[str]) -> None:
    """Run one command, shortened, or check that the files and extras that it names exist."""
    if words[0] == "torchrun":
        words = ["minrl", *words[words.index("minrl.agents") + 1 :]]
    if words[0] == "minrl":
        _minrl(words[1:])
    elif words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif words[:2] == ["pip", "install"]:
        for requirement in words[2:]:
            _check_requirement(requirement)
    elif words[0] == "python":
        _check_program(words[1:])
    elif words[0] == "cc":
        assert all(Path(word).exists() for word in words[1:] if word.endswith(".c")), words
        if shutil.which("cc"):
            subprocess.run(words, check=True)
    else:
        raise AssertionError(f"no way to check {shlex.join(words)}")


def _compile(folder: Path, text: str) -> None:
    """Compile statements of C that use the first exported policy in `folder`, where there is a compiler."""
    header = next(folder.glob("*/policy.h"))
    lines = [
        f'#include "{header}"',
        "void read_sensors(float *);\nvoid move(float *);",
        "void run(void) {\nfloat observation[POLICY_OBSERVATION_SIZE], action[8], reward = 0;",
        f"{text}}}\n",
    ]
    (folder / "block.c").write_text("\n".join(lines), encoding="utf-8")
    if compiler := shutil.which("cc"):
        subprocess.run([compiler, "-std=c99", "-Wall", "-Werror", "-c", "block.c"], cwd=folder, check=True)


def _minrl(words: list[str]) -> None:
    keys = " ".join(words[:3]), " ".join(words[:2]), words[0]
    cut = shlex.split(next((_CUT[key] for key in keys if key in _CUT), ""))
    if "--report-only" in words:  # needs runs that no page makes
        cut = ["--help"]
    if words[:2] == ["train", "--resume"] and "--steps" not in words:
        cut = []
    if words[:2] == ["train", "ppo"] and "--pretrained" not in words:
        cut += ["--width", "16"]
    try:
        code = main([*words, *cut])
    except SystemExit as end:  # from argparse, after help or an error
        code = end.code
    assert code == 0, shlex.join(["minrl", *words])
    if "--help" in cut:
        help_text = io.StringIO()
        with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
            main([*words[:1], "--help"] if words[0] != "reproduce" else [*words[:2], "--help"])
        assert all(word in help_text.getvalue() for word in words if word.startswith("--")), words


def _check_requirement(requirement: str) -> None:
    """Check that a requirement names extras of ours, or a package that is installed or that an extra asks for."""
    if requirement == "-e":
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    name, _, rest = requirement.partition("[")
    if name == ".":
        assert set(rest.rstrip("]").split(",")) <= set(extras), requirement
        return
    asked = re.split(r"[<>=!~]", name)[0]
    if any(re.split(r"[\[<>=!~;]", line)[0].strip() == asked for lines in extras.values() for line in lines):
        return
    try:
        distribution(asked)
    except PackageNotFoundError:
        raise AssertionError(f"pip install {requirement}: no such package among those that minrl knows") from None


def _check_program(words: list[str]) -> None:
    """Check that the files that a Python command names are there, and that the program has its flags."""
    if words[:2] == ["-m", "pytest"]:
        paths = [word for word in words[2:] if word.startswith("tests")]
        assert paths
        assert all((ROOT / path.partition("::")[0]).exists() for path in paths), words
        return
    program = ROOT / words[0]
    assert program.is_file(), words
    text = program.read_text(encoding="utf-8")
    assert all(f'"{word}"' in text for word in words[1:] if word.startswith("--")), words
