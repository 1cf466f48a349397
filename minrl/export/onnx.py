"""Export of a trained agent as one ONNX file that acts without this package and without torch.

The model is one deterministic step of the agent: inputs observation (B, O) flattened, reward (B,), episode_start (B,)
bool, state (B, S) and, for an agent with action masks, action_masks (B, M) bool; outputs the environment's action
and next_state (B, S). The state holds target return, rewards so far, previous action and the backbone's hidden
state. The file's metadata give the initial state and the columns of the spaces, as JSON (`metadata`).

Shapes: B environments, O flat observation width, S state size, M flags of a mask.
"""

import json
import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import minrl
from minrl.agent import Actor, Moment
from minrl.cells import Cell
from minrl.data.masks.action_masks import mask_size
from minrl.export.check import Agreement, compare, observation_type
from minrl.export.digest import write_digest
from minrl.export.quiet import quiet, without_validation
from minrl.export.spaces import ActionDecoder, described
from minrl.models.context_window import Refeed
from minrl.scan import without_fused_kernels
from minrl.system.extras import install_hint
from minrl.system.files import replacing
from minrl.system.messages import one_line

INPUTS = {
    "observation": "flattened, a row for each environment; choices one-hot",
    "reward": "of the last action; ignored where an episode starts",
    "episode_start": "True where the observation is the first of an episode",
    "state": "next_state of the last step; at first rows of initial_state in the metadata",
    "action_masks": "True where a choice is allowed; for each bit of a MultiBinary two: it may be 0, it may be 1",
}
NEXT_STATE = "next_state"
OPSET = 18  # torch's own, written without conversion
# Relative to an action's range; and relative to a state, which only the model itself reads.
ACTION_TOLERANCE, STATE_TOLERANCE = 1e-5, 1e-3


@dataclass(frozen=True)
class Exported:
    """File that was written and agrees with the agent."""

    path: Path
    size: int  # bytes
    inputs: dict[str, tuple[str | int, ...]]  # shapes
    outputs: dict[str, tuple[str | int, ...]]
    agreement: Agreement


class StepModel(nn.Module):
    """Module for one step of `agent`, tensors in and out."""

    def __init__(self, agent: Actor) -> None:
        super().__init__()
        self.agent = agent
        self.decoder = ActionDecoder(agent.task.action_space)

    def forward(
        self,
        observation: Tensor,
        reward: Tensor,
        episode_start: Tensor,
        state: Tensor,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Act: (B, O), (B,), (B,) bool, (B, S), (B, M) bool -> tensors of the action's parts, next state (B, S)."""
        action, state = self.agent.act(Moment(observation, reward, episode_start, action_masks), state)
        return *self.decoder(action), state


def export_onnx(
    agent: Actor, path: Path | str, *, target_return: float | None = None, opset: int = OPSET, steps: int = 1000
) -> Exported:
    """Write `agent` to `path`, and its digest beside it, if onnxruntime agrees with it over `steps` steps.

    Args:
        agent: any agent; not changed.
        path: of the file; an existing one is replaced.
        target_return: of the initial state in the metadata; the agent's own by default.
        opset: version of ONNX's operator set.

    Raises:
        ValueError: if a package is missing or the agent cannot be exported.
        FloatingPointError: if actions differ by more than 1e-5 of their range; no file is written then.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    onnx, runtime = required("onnx"), required("onnxruntime")
    required("onnxscript")  # torch's exporter needs it
    if not path.absolute().parent.is_dir():
        raise ValueError(f"no folder {path.absolute().parent} to write {path.name} to; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    check_exportable(agent, target_return)
    agent = copied(agent)
    model = step_graph(agent, opset)
    for name, value in metadata(agent, target_return).items():
        model.metadata_props.add(key=name, value=value)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        session = _session(onnx, runtime, temporary, opset)
        agreement = compare(session, agent, steps=steps, target_return=target_return)
        if not (agreement.action <= ACTION_TOLERANCE and agreement.state <= STATE_TOLERANCE):
            raise FloatingPointError(
                f"the exported model differs from the agent by {agreement.action:.1e} of an action's range and "
                f"{agreement.state:.1e} of the state over {steps} steps; {path} was not written"
            )
    write_digest(path)
    return Exported(path, path.stat().st_size, _shapes(model.graph.input), _shapes(model.graph.output), agreement)


def metadata(agent: Actor, target_return: float | None = None) -> dict[str, str]:
    """Return the file's metadata, all but the first three and `environment` as JSON.

    `initial_state` is the first row (S,) of the state; its first element is the target return, if there is one.
    `observation_space` and `action_space` list the parts of the spaces as `minrl.export.spaces.described` does, in the
    order of the columns of the input "observation" and of the outputs. `inputs` lists the model's inputs in order,
    with name, type, shape and meaning. `environment_kwargs` are for `gymnasium.make`, with the limit of steps.
    """
    task = agent.task
    asked = agent.target_return if target_return is None else target_return
    row = agent.initial_state(1, target_return)[0].tolist()
    values = {
        "minrl_version": minrl.__version__,
        "agent": agent.name,
        "dataset": task.dataset,
        "initial_state": _json([int(x) if x == int(x) else x for x in row]),
        "state_size": _json(agent.state_size),
        "inputs": _json(_inputs(agent)),
        "observation_space": _json(described(task.acting_space, "observation")),
        "action_space": _json(described(task.action_space, "action")),
    }
    if asked is not None:
        values["target_return"] = _json(asked)
    if task.environment is not None:
        values["environment"] = task.environment.id
        kwargs = dict(task.environment.kwargs)
        if task.environment.max_episode_steps is not None:
            kwargs.setdefault("max_episode_steps", task.environment.max_episode_steps)
        values["environment_kwargs"] = json.dumps(kwargs, default=str)
    return values


def _inputs(agent: Actor) -> list[dict[str, Any]]:
    """Describe the model's inputs in their order, in plain values."""
    observed, width = str(observation_type(agent)).removeprefix("torch."), agent.task.observation_size
    parts = [f"{part['name']} {part['columns']}" for part in described(agent.task.acting_space, "observation")]
    about = INPUTS | {"observation": f"{INPUTS['observation']}; columns [first, end): {', '.join(parts)}"}
    kinds: dict[str, tuple[str, list[Any]]] = {
        "observation": (observed, ["batch", width]),
        "reward": ("float32", ["batch"]),
        "episode_start": ("bool", ["batch"]),
        "state": ("float32", ["batch", agent.state_size]),
    }
    if agent.task.masked:
        kinds["action_masks"] = ("bool", ["batch", mask_size(agent.task.action_space)])
    return [
        {"name": name, "dtype": dtype, "shape": shape, "about": about[name]} for name, (dtype, shape) in kinds.items()
    ]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def check_exportable(agent: Actor, target_return: float | None) -> None:
    """Raise ValueError for an agent or target that cannot be exported."""
    if target_return is not None and agent.target_return is None:
        raise ValueError(f"agent {agent.name} takes no target return: leave the target out")
    if target_return is not None and not math.isfinite(target_return):
        raise ValueError(f"the target return must be a number, got {target_return}")
    acting = getattr(agent, "acting", None)
    if isinstance(acting, Refeed) and any(isinstance(part, Cell) and part.reads_back for part in acting.modules()):
        raise ValueError(
            f"agent {agent.name} acts by refeed, for which its cell cuts the window where an episode starts: ONNX "
            "cannot express that; without refeed, or with another cell, it can be exported"
        )


def copied(agent: Actor) -> Actor:
    """Copy the agent to the CPU, in float32."""
    made = type(agent)(agent.config, agent.task)
    made.load_state_dict(agent.state_dict())
    return made.cpu().eval()


def step_graph(agent: Actor, opset: int) -> Any:
    """Convert the agent to ONNX's protobuf message."""
    step, count = StepModel(agent).eval(), 3
    state = agent.initial_state(count)
    inputs = {
        "observation": torch.zeros(count, agent.task.observation_size, dtype=observation_type(agent)),
        "reward": torch.zeros(count),
        "episode_start": torch.ones(count, dtype=torch.bool),
        "state": state,
    }
    if agent.task.masked:
        inputs["action_masks"] = torch.ones(count, mask_size(agent.task.action_space), dtype=torch.bool)
    batch = {name: {0: torch.export.Dim("batch")} for name in inputs}
    outputs = [*step.decoder.names, NEXT_STATE]
    with torch.no_grad(), without_fused_kernels(), without_validation(), quiet():
        try:
            program = torch.export.export(step, (), inputs, dynamic_shapes=batch, strict=False)
            written: Any = torch.onnx.export(
                program, (), input_names=list(inputs), output_names=outputs, opset_version=opset, dynamo=True,
                verbose=False, optimize=False,
            )  # fmt: skip
            _simplify(written.model)
            model = written.model_proto
        except Exception as error:  # several packages raise their own classes
            reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"agent {agent.name} cannot be written as ONNX: {reason[0].strip()}") from error
    found = [version.version for version in model.opset_import if not version.domain]
    if found != [opset]:
        raise ValueError(f"opset {opset} cannot be written, {found[0]} can; {OPSET} is the usual one")
    _strip(model)
    model.producer_name, model.producer_version, model.graph.name = "minrl", minrl.__version__, "step"
    about = {value["name"]: value["about"] for value in _inputs(agent)}
    for value in model.graph.input:
        value.doc_string = about[value.name]
    for value in [*model.graph.input, *model.graph.output]:
        # All share one symbol, named by torch.
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _simplify(model: Any) -> None:
    """Fold constants in place; torch's own `optimize=True` also fuses, and sometimes writes invalid files.

    With onnxscript 0.7, a tensor that is clipped twice to scalar bounds leaves a node without its input.
    """
    optimizer = import_module("onnxscript.optimizer")
    optimizer.inline(model)
    for _ in range(2):
        optimizer.fold_constants(model)
        optimizer.remove_unused_nodes(model)


def _strip(message: Any) -> None:
    """Clear the exporter's notes, such as each node's place in source files."""
    for name in ("metadata_props", "doc_string", "value_info"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                _strip(part)


def _shapes(values: Any) -> dict[str, tuple[str | int, ...]]:
    return {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def _session(onnx: Any, runtime: Any, path: Path, opset: int) -> Any:
    """Open the file with onnxruntime; raise ValueError if that fails."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        onnx.checker.check_model(str(path))
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both raise their own classes
        raise ValueError(
            f"onnxruntime {runtime.__version__} cannot open opset {opset} ({one_line(error)[:150]})"
        ) from error


def required(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"{name} is missing: {install_hint('onnx')} to export an agent") from None
