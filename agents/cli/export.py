"""`minrl export`: write a trained agent as an ONNX file or as C99, which act without this package and without torch."""

import argparse
from pathlib import Path

from minrl.agent import Actor
from minrl.data.environment import EnvironmentInfo
from minrl.export.c.export import ExportedC, export_c
from minrl.export.onnx import OPSET, Exported, export_onnx
from minrl.runs import checkpoint
from minrl.system.trust import add_trust
from minrl.zoo import is_policy_file, load_zip_in
from minrl.zoo.trusted import TrustedAgent

from . import flag_hints
from .zip_flags import RUN_OR_ZIP, add_vecnormalize

# Needs gymnasium, numpy and onnxruntime; for flat Box observations.
EXAMPLE = """\
import gymnasium, json, numpy as np, onnxruntime
model = onnxruntime.InferenceSession("agent.onnx")
about = model.get_modelmeta().custom_metadata_map
kwargs, kind = json.loads(about["environment_kwargs"]), json.loads(about["inputs"])[0]["dtype"]
environment = gymnasium.make(about["environment"], **kwargs)
state = np.float32([json.loads(about["initial_state"])])
(observation, _), reward, start, ends = environment.reset(seed=0), 0.0, True, [False]
while not any(ends):
    seen = {"observation": np.array([observation], kind), "reward": np.float32([reward])}
    action, state = model.run(None, seen | {"episode_start": np.array([start]), "state": state})
    (observation, reward, *ends, _), start = environment.step(action[0]), False
"""
# Needs numpy and onnxruntime; `observation` has the structure of the agent's observation space. It defines `row`, `act`
# and `state`.
EXAMPLE_ALONE = """\
import json, numpy as np, onnxruntime
model = onnxruntime.InferenceSession("agent.onnx")
about = model.get_modelmeta().custom_metadata_map
parts, kind = json.loads(about["observation_space"]), json.loads(about["inputs"])[0]["dtype"]

def row(observation):
    columns = []
    for part in parts:  # in the order of the columns
        value = observation
        for key in part["keys"]:
            value = value[key]
        value = np.reshape(value, -1)
        if part["kind"] in ("Discrete", "MultiDiscrete"):  # choices are one-hot
            sizes, starts = np.reshape(part["n"], -1), np.reshape(part["start"], -1)
            value = np.concatenate([np.eye(n)[v - s] for v, n, s in zip(value, sizes, starts)])
        columns.append(value)
    return np.concatenate(columns).astype(kind)

state = np.float32([json.loads(about["initial_state"])])

def act(observation, reward=0.0, start=False):  # the last action's reward; start of an episode
    global state
    seen = {"observation": row(observation)[None], "reward": np.float32([reward])}
    *action, state = model.run(None, seen | {"episode_start": np.array([start]), "state": state})
    return [part[0] for part in action]  # one for each output before next_state
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `minrl export`."""
    parser.usage = "minrl export RUN|ZIP --onnx FILE | --c DIR [flags]"
    indented, alone = ("".join(f"  {line}\n" for line in text.splitlines()) for text in (EXAMPLE, EXAMPLE_ALONE))
    parser.epilog = (
        "examples:\n"
        "  minrl export runs/hopper --onnx hopper.onnx\n"
        "  minrl export runs/hopper/best.pt --onnx hopper.onnx --target 3600\n"
        "  minrl export ppo.zip --env CartPole-v1 --onnx cartpole.onnx\n"
        "  minrl export runs/hopper --c hopper && cc -std=c99 -O3 hopper/main.c hopper/policy.c -lm\n\n"
        "to act with the file in Python, without torch and without minrl, in the environment that it\n"
        "names, if the observation is one array:\n\n"
        f"{indented}\n"
        "the same without an environment, for observations of any structure, act(observation, reward, start):\n\n"
        f"{alone}"
    )
    parser.add_argument("path", metavar="RUN|ZIP", type=Path, help=RUN_OR_ZIP)
    parser.add_argument("--onnx", metavar="FILE", type=Path, help="file to write; an existing one is replaced")
    parser.add_argument(
        "--c", metavar="DIR", type=Path, help="folder to write policy.c, policy.h and main.c to: C99, no allocation"
    )
    parser.add_argument(
        "--target", metavar="RETURN", type=float, help="target return of the initial state (unset: the agent's own)"
    )
    parser.add_argument("--env", metavar="ID", help="environment of a .zip's training, for its spaces and the metadata")
    add_vecnormalize(parser)
    add_trust(parser, "open the pickles of --vecnormalize, where they are needed")
    parser.add_argument("--opset", metavar="N", type=int, default=OPSET, help=f"ONNX operator set (default: {OPSET})")
    parser.set_defaults(run=run, instead=flag_hints.EXPORT)


def run(arguments: argparse.Namespace) -> int:
    """Export, check, and print a summary."""
    if arguments.onnx is None and arguments.c is None:
        raise ValueError(f"--onnx or --c is missing: {arguments.parser.usage}")
    agent, name = _opened(arguments)
    if arguments.onnx is not None:
        written = export_onnx(agent, arguments.onnx, target_return=arguments.target, opset=arguments.opset)
        print(_report(written, name, plays=agent.task.environment is not None))
    if arguments.c is not None:
        print(_report_c(export_c(agent, arguments.c, target_return=arguments.target), name))
    return 0


def _opened(arguments: argparse.Namespace) -> tuple[Actor, str]:
    """Return the agent and its name."""
    if not is_policy_file(arguments.path):
        for flag in ("env", "vecnormalize"):
            if getattr(arguments, flag) is not None:
                raise ValueError(f"--{flag} is for a policy's .zip; a run keeps its own")
        agent = checkpoint.load(arguments.path)
        return agent, agent.name
    environment = None if arguments.env is None else EnvironmentInfo(arguments.env)
    policy = load_zip_in(arguments.path, environment, vecnormalize=arguments.vecnormalize)
    if isinstance(policy, TrustedAgent):
        raise ValueError(f"{arguments.path}: its policy acts by code of its own, which cannot be exported")
    return policy, policy.algorithm


def _report(written: Exported, name: str, *, plays: bool) -> str:
    agreement = written.agreement
    lines = [f"{written.path}: agent {name}, {written.size / 1024:,.0f} KiB"]
    for title, shapes in (("inputs", written.inputs), ("outputs", written.outputs)):
        listed = (f"{key} ({', '.join(map(str, shape))})" for key, shape in shapes.items())
        lines.append(f"{title + ':':<9}" + ", ".join(listed))
    lines.append(
        f"checked: over {agreement.steps} steps with onnxruntime, actions differ from the agent's by at most "
        f"{agreement.action:.1e} of their range"
    )
    if agreement.ties:
        lines.append(f"{agreement.ties} choices differ where two are equally good but for rounding")
    which = "" if plays else " (the second example: the file names no environment)"
    lines.append(f"Python code that acts with it, without torch{which}: minrl export --help")
    return "\n".join(lines)


def _report_c(written: ExportedC, name: str) -> str:
    sources, agreement = written.sources, written.agreement
    actions = ", ".join(f"{a.name} ({a.size} of {a.kind})" for a in sources.actions)
    masks = f"mask of {sources.mask_size}, " if sources.mask_size else ""
    lines = [
        f"{written.folder / 'policy.c'}: agent {name}, {len(sources.files['policy.c']) / 1024:,.0f} KiB of C99",
        f"observation of {sources.observation_size}, {masks}{actions}; {4 * sources.state_size:,} bytes of state, "
        f"{sources.constants:,} of constants, {sources.workspace:,} on the stack",
        "not checked: there is no C compiler named cc"
        if agreement is None
        else f"checked: over {agreement.steps} steps, compiled by cc, actions differ from the agent's by at most "
        f"{agreement.action:.1e} of their range",
        f"try it: cc -std=c99 -O3 {written.folder / 'main.c'} {written.folder / 'policy.c'} -lm -o policy",
    ]
    if agreement is not None and agreement.ties:
        lines.insert(3, f"{agreement.ties} choices differ where two are equally good but for rounding")
    return "\n".join(lines)
