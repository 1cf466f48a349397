"""`minrl export`: a trained agent as an ONNX file that acts without this package and without torch."""

import argparse
from pathlib import Path

from minrl import checkpoint
from minrl.export import OPSET, Exported, export_onnx

# Needs gymnasium, numpy and onnxruntime; flat Box observations stand in a row as they are.
EXAMPLE = """\
import gymnasium, json, numpy as np, onnxruntime
model = onnxruntime.InferenceSession("agent.onnx")
about = model.get_modelmeta().custom_metadata_map
environment = gymnasium.make(about["environment"])
state = np.float32([json.loads(about["initial_state"])])
(observation, _), reward, start, ends = environment.reset(seed=0), 0.0, True, [False]
while not any(ends):
    seen = {"observation": np.float32([observation]), "reward": np.float32([reward])}
    action, state = model.run(None, seen | {"episode_start": np.array([start]), "state": state})
    (observation, reward, *ends, _), start = environment.step(action[0]), False
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `minrl export`."""
    parser.usage = "minrl export RUN --onnx FILE [flags]"
    indented = "".join(f"  {line}\n" for line in EXAMPLE.splitlines())
    parser.epilog = (
        "examples:\n"
        "  minrl export runs/hopper --onnx hopper.onnx\n"
        "  minrl export runs/hopper/best.pt --onnx hopper.onnx --target 3600\n\n"
        "acting with the file in Python, without torch and without minrl:\n\n" + indented
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder (its last checkpoint) or a checkpoint")
    parser.add_argument("--onnx", metavar="FILE", type=Path, help="where to write it; a file of that name is replaced")
    parser.add_argument(
        "--target", metavar="RETURN", type=float, help="return that the initial state asks for (unset: the agent's own)"
    )
    parser.add_argument("--opset", metavar="N", type=int, default=OPSET, help=f"ONNX operator set (default: {OPSET})")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, check, and say what was written."""
    if arguments.onnx is None:
        raise ValueError(f"--onnx is missing: {arguments.parser.usage}")
    agent = checkpoint.load(arguments.path)
    written = export_onnx(agent, arguments.onnx, target_return=arguments.target, opset=arguments.opset)
    print(_report(written, agent.name))
    return 0


def _report(written: Exported, name: str) -> str:
    agreement = written.agreement
    lines = [f"{written.path}: agent {name}, {written.size / 1024:,.0f} KiB"]
    for title, shapes in (("inputs", written.inputs), ("outputs", written.outputs)):
        listed = (f"{key} ({', '.join(map(str, shape))})" for key, shape in shapes.items())
        lines.append(f"{title + ':':<9}" + ", ".join(listed))
    lines.append(
        f"checked: over {agreement.steps} steps with onnxruntime, actions differ from the library's by at most "
        f"{agreement.action:.1e} of their range"
    )
    if agreement.ties:
        lines.append(f"{agreement.ties} choices between equals fell the other way")
    lines.append("ten lines of Python that act with it without torch: minrl export --help")
    return "\n".join(lines)
