"""Changes of a model after its first call take effect in the next one, on every compiled path.

Shapes: B batch, T time, D width, S state size.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from worlds import drift_episodes

from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.backbone import Backbone, compiled_scan, compiled_step
from minrl.data.task import Task
from minrl.models import compiled_act
from minrl.scan import without_fused_kernels

pytest.importorskip("numba")

WIDTH = 8  # a square MLP, so that its weights can be transposed
# Another value for each kind of plain attribute; for texts by their value.
OTHER_TEXT = {"positive": "tanh", "none": "tanh", "sigmoid": "hard"}
# These change a model's results; other attributes may not.
COUNTS = {"eps", "candidate", "signed", "gate", "approximate"}


def moved(model: nn.Module) -> nn.Module:
    """Move the weights away from their initial values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return moved(Backbone(WIDTH, 1, "mingru", mlp=1.0))


def agent(family: Any, config: Any) -> nn.Module:
    episodes = drift_episodes("box")
    torch.manual_seed(0)
    made = family(
        config(width=WIDTH, depth=1, mlp=1.0, **({"time_embedding": True} if family is DecisionAgent else {})),
        Task.of(episodes),
    )
    made.fit_normalization(episodes)
    return moved(made)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "scan": backbone,
    "step": backbone,
    "decision": lambda: agent(DecisionAgent, DecisionConfig),
    "clone": lambda: agent(CloneAgent, CloneConfig),
}


def of_sequence(model: Any, steps: int = 20) -> list[Tensor]:
    """Return outputs and last state of a scan, and the gradients to all weights."""
    dtype = next(model.parameters()).dtype
    torch.manual_seed(2)
    x, state, reset = torch.randn(3, steps, WIDTH), torch.randn(3, model.state_size), torch.rand(3, steps) < 0.1
    y, last = model.scan(x.to(dtype), state.to(dtype), reset)
    weights = [p for p in model.parameters() if p.requires_grad]
    return [y, last, *torch.autograd.grad(y.sin().sum() + last.sin().sum(), weights, materialize_grads=True)]


def of_step(model: Any) -> list[Tensor]:
    dtype = next(model.parameters()).dtype
    torch.manual_seed(2)
    x, state = torch.randn(3, WIDTH), torch.randn(3, model.state_size)
    with torch.no_grad():
        return list(model.step(x.to(dtype), state.to(dtype)))


def of_action(model: Any) -> list[Tensor]:
    dtype = next(model.parameters()).dtype
    torch.manual_seed(2)
    moment = Moment(torch.randn(3, 3).to(dtype), torch.randn(3).to(dtype), torch.tensor([False, True, False]))
    state = torch.randn(3, model.state_size)
    if isinstance(model, DecisionAgent):
        state[:, 0], state[:, 2] = 1e4, torch.arange(3.0)
    with torch.no_grad():
        return list(model.act(moment, state.to(dtype)))


CALLS: dict[str, Callable[[nn.Module], list[Tensor]]] = {
    "scan": of_sequence,
    "step": of_step,
    "decision": of_action,
    "clone": of_action,
}


def in_torch(path: str, model: nn.Module) -> list[Tensor]:
    """Return the results of a fresh copy in float64 with torch's operations."""
    with without_fused_kernels():
        return CALLS[path](deepcopy(model).double())


def assert_as_in_torch(path: str, model: nn.Module) -> None:
    for a, b in zip(CALLS[path](model), in_torch(path, model), strict=True):
        assert (a.double() - b).abs().max() <= 2e-5 * b.abs().max().clamp(min=1.0)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the paths of the compiled calls."""
    made: list[str] = []

    def watch(module: Any, name: str, path: str) -> None:
        run = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            result = run(*arguments, **options)
            if result is not None and result is not False:
                made.append(path)
            return result

        monkeypatch.setattr(module, name, watched)

    watch(compiled_scan, "scan", "scan")
    watch(compiled_step, "step", "step")
    watch(compiled_act, "run", "act")
    return made


def first_call(path: str, compiled: list[str]) -> tuple[nn.Module, list[Tensor]]:
    model = MODELS[path]()
    before = CALLS[path](model)
    assert compiled[-1] == ("act" if path in ("decision", "clone") else path)
    return model, before


def plain_settings(path: str) -> list[tuple[str, str]]:
    """List the plain numbers, texts and flags of all parts as (module, attribute)."""
    return [
        (name, attribute)
        for name, module in MODELS[path]().named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, float | str | bool) and attribute[0] != "_" and attribute != "training"
    ]


def other_than(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return OTHER_TEXT.get(value, "another") if isinstance(value, str) else value + 0.5


def settings_of_all() -> list[Any]:
    """List (path, module, attribute); the scan's other gates are slow, as kernels of their own are compiled."""
    return [
        pytest.param(path, *setting, marks=[pytest.mark.slow] * (path == "scan" and setting[1] == "gate"))
        for path in MODELS
        for setting in plain_settings(path)
    ]


@pytest.mark.parametrize(("path", "part", "attribute"), settings_of_all())
def test_a_plain_attribute(path: str, part: str, attribute: str, compiled: list[str]) -> None:
    model, before = first_call(path, compiled)
    module = model.get_submodule(part)
    value = getattr(module, attribute)
    setattr(module, attribute, other_than(value))
    try:
        wanted = in_torch(path, model)
    except (AttributeError, RuntimeError, TypeError) as error:  # the model lacks that part
        with pytest.raises(type(error)):
            CALLS[path](model)
        return
    assert_as_in_torch(path, model)
    if attribute in COUNTS:
        assert any((a - b).abs().max() > 6e-5 for a, b in zip(before, wanted, strict=True))


def turn(model: Any) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 2 and parameter.shape[0] == parameter.shape[1]:
            parameter.data = parameter.data.t()


def shift_storage(model: Any) -> None:
    for parameter in model.parameters():
        room = torch.randn(parameter.numel() + 3)
        parameter.data = room[3:].view(parameter.shape)


def replace_parameters(model: Any) -> None:
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, nn.Parameter(parameter.detach() + 0.5))


def assign(model: Any) -> None:
    model.load_state_dict({name: value.clone() + 0.25 for name, value in model.state_dict().items()}, assign=True)


def backbone_of(model: Any) -> Any:
    return model.backbone if hasattr(model, "backbone") else model


def replace_norm(model: Any) -> None:
    backbone_of(model).blocks[0].norm = nn.RMSNorm(WIDTH)


def replace_activation(model: Any) -> None:
    backbone_of(model).blocks[0].mlp[2] = nn.ReLU()


def replace_convolution(model: Any) -> None:
    convolution = deepcopy(backbone_of(model).blocks[0].conv)
    torch.nn.init.normal_(convolution.weight)
    backbone_of(model).blocks[0].conv = convolution


def give_a_forward(model: Any) -> None:
    norm = backbone_of(model).norm
    norm.forward = lambda x: 2 * nn.functional.layer_norm(x, x.shape[-1:])


def constrain(model: Any) -> None:
    parametrizations.weight_norm(backbone_of(model).blocks[0].mlp[1])


def freeze(model: Any) -> None:
    backbone_of(model).requires_grad_(False)
    next(backbone_of(model).parameters()).requires_grad_(True)


def widen(model: Any) -> None:
    model.double()


ANYWHERE = [turn, shift_storage, replace_parameters, assign, widen]
IN_BACKBONES = [replace_norm, replace_activation, replace_convolution, give_a_forward, constrain, freeze]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        # Kernels of float64 are compiled for a scan that is widened.
        pytest.param(path, change, marks=[pytest.mark.slow] * (path == "scan" and change is widen))
        for path in MODELS
        for change in ANYWHERE + IN_BACKBONES
    ],
)
def test_a_part_that_is_replaced_moved_or_turned(path: str, change: Callable[[Any], None], compiled: list[str]) -> None:
    model, before = first_call(path, compiled)
    change(model)
    assert_as_in_torch(path, model)
    if change not in (freeze, widen, constrain):
        changed = CALLS[path](model)
        assert any(a.shape != b.shape or (a - b).abs().max() > 1e-3 for a, b in zip(before, changed, strict=False))


@pytest.mark.parametrize("field", ["cap_return", "return_scale"])
def test_target_settings_of_a_decision_agent(field: str, compiled: list[str]) -> None:
    model: Any
    model, before = first_call("decision", compiled)
    if field == "cap_return":
        model.config = replace(model.config, cap_return=not model.config.cap_return)
    else:
        model.return_scale = 7.0 * model.return_scale
    assert_as_in_torch("decision", model)
    assert (CALLS["decision"](model)[0] - before[0]).abs().max() > 1e-3


def test_a_table_that_is_truncated_in_place(compiled: list[str]) -> None:
    """Keep address and strides; steps beyond the new end get the embedding of its last row."""
    model: Any
    model, before = first_call("decision", compiled)
    other: Any = deepcopy(model)
    with torch.no_grad():
        other.embed_time.weight[2:] = other.embed_time.weight[1]
    wanted = in_torch("decision", other)
    model.embed_time.weight.data = model.embed_time.weight.data[:2]
    actual = CALLS["decision"](model)
    for a, b in zip(actual, wanted, strict=True):
        assert (a.double() - b).abs().max() <= 2e-5 * b.abs().max().clamp(min=1.0)
    assert (actual[1] - before[1]).abs().max() > 1e-4
