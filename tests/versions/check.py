"""Use of an installed minrl from end to end, in a minute: what other versions and the wheel are tried with.

    python tests/versions/check.py [--outside CHECKOUT]

Runs in an empty folder, without pytest: every module is imported; tiny runs are trained, resumed, evaluated and
exported; PPO learns, resumes, and is saved to a zip and loaded; configs are found by name. Kernels are compiled, with
few of LLVM's optimisations, for the first run; the others use torch's operations, as to compile theirs takes minutes.
With `--outside` no module may come from that folder. Parts that need an extra which is not installed must say so in one
line. Prints what was done; the exit code is 1, after the traceback, at the first thing that is missing.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SMALL = ["--width", "16", "--depth", "1"]
TINY = ["--batch-size", "2", "--length", "50", "--checkpoint-every", "2", "--threads", "1"]
PPO = ["--n-envs", "2", "--n-steps", "32", "--n-epochs", "1", "--threads", "1"]
# Packages that a module may lack here: those of extras, and of builds for GPUs.
OPTIONAL = {"matplotlib", "mujoco", "onnx", "onnxruntime", "onnxscript", "pyarrow", "ray", "scipy", "transformers"} | {
    "triton"
}


def minrl(*words: str, fails: bool = False) -> str:
    """Run a command in this process and return what it printed; it must succeed, or fail in one line."""
    from minrl.agents.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
    assert code == (2 if fails else 0), f"minrl {' '.join(words)}: exit code {code}\n{err.getvalue()}"
    if fails:
        (line,) = err.getvalue().splitlines()
        assert line.startswith("minrl: "), line
        return err.getvalue()
    return out.getvalue()


def in_torch() -> contextlib.AbstractContextManager[None]:
    """Return a context in which torch's operations run instead of compiled kernels."""
    from minrl.scan import without_fused_kernels

    return without_fused_kernels()


def command() -> None:
    """Run the installed command itself."""
    script = Path(sys.executable).with_name("minrl")
    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["minrl", version("minrl")], done.stdout


def imports() -> None:
    """Import every module; those of extras may lack the extra's packages."""
    # In a checkout the package has a second folder, the checkout itself.
    for package in map(importlib.import_module, ("minrl", "minrl.agents", "minrl.envs")):
        for module in pkgutil.walk_packages(package.__path__[:1], f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] not in OPTIONAL:
                    raise


def offline() -> None:
    """Train, resume and evaluate by the config that ships, and a clone with another cell."""
    quiet = ["--evaluate-every", "0"]
    if find_spec("mujoco") is None:
        quiet += ["--eval-env", "none"]
    short = ["--evaluate-episodes", "1", "--evaluate-max-steps", "5"]
    minrl("train", "decision", "--config", "demo", "--out", "run", "--steps", "4", *SMALL, *TINY, *quiet, *short)
    minrl("train", "--resume", "run", "--steps", "6")
    if find_spec("mujoco") is not None:
        assert json.loads(minrl("evaluate", "run", "--episodes", "1", "--max-episode-steps", "5", "--json"))
    with in_torch():
        minrl("train", "clone", "--data", DATA, "--cell", "s5", "--out", "s5", "--steps", "2", *SMALL, *TINY, *quiet)


def export() -> None:
    """Write an ONNX file, or name the packages that it needs."""
    if all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))):
        minrl("export", "run", "--onnx", "run.onnx")
        assert Path("run.onnx").stat().st_size > 1000
    else:
        assert "pip install" in minrl("export", "run", "--onnx", "run.onnx", fails=True)


def ppo() -> None:
    """Learn, resume and evaluate by the command, by the config of CartPole."""
    with in_torch():
        minrl("train", "ppo", "--env", "CartPole-v1", "--out", "ppo", "--steps", "128", *SMALL, *PPO,
              "--batch-size", "32", "--evaluate-episodes", "1", "--checkpoint-every", "64")  # fmt: skip
        minrl("train", "--resume", "ppo", "--steps", "192")
        assert json.loads(minrl("evaluate", "ppo", "--episodes", "2", "--json"))


def zips() -> None:
    """Save and load Stable-Baselines3's zips of every policy class, and act the same after."""
    import numpy as np

    from minrl.agents.ppo import RecurrentPPO

    with in_torch():
        for policy in ("MlpPolicy", "MlpLstmPolicy"):
            model = RecurrentPPO(policy, "CartPole-v1", n_steps=32, n_epochs=1, seed=0).learn(64)
            model.save(policy)
            loaded = RecurrentPPO.load(policy)
            seen = np.ones((1, 4), np.float32)
            actions = [one.predict(seen, deterministic=True)[0] for one in (model, loaded)]
            assert actions[0] == actions[1], policy
            loaded.set_env(model.get_env())
            loaded.learn(64, reset_num_timesteps=False)


def names() -> None:
    """List cells and data sets, and find grids by name."""
    from minrl.cells import CELLS

    assert {row["name"] for row in json.loads(minrl("cells", "--json"))} == set(CELLS)
    assert DATA.removeprefix("minari:") in minrl("data", "list")
    if find_spec("scipy") is not None and find_spec("matplotlib") is not None:
        assert "12 to do" in minrl("compare", "smoke", "--dry-run")
    assert 'did you mean "cartpole"' in minrl("train", "ppo", "--config", "cartpol", "--out", "x", fails=True)


DATA = "minari:minrl/hopper/medium-replay-v0"
PARTS = (command, imports, offline, export, ppo, zips, names)


def versions() -> str:
    """Return Python and the packages that matter, with their versions."""
    names = ("torch", "numpy", "gymnasium", "stable-baselines3", "minari", "h5py", "numba", "tensorboard")
    return ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in names)])


def main() -> int:
    """Run all parts in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outside", type=Path, help="folder from which no module may come")
    outside: Path | None = parser.parse_args().outside
    print(versions(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MINRL_CACHE": str(Path(folder) / "cache"), "NUMBA_OPT": "1"}
        os.chdir(folder)
        for part in PARTS:
            start = time.process_time()
            part()
            print(f"ok: {part.__name__} ({time.process_time() - start:.0f} s)", flush=True)
        import minrl as package

        place = Path(package.__file__).resolve()
        assert outside is None or not place.is_relative_to(outside.resolve()), f"minrl was imported from {place}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
