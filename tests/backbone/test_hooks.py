"""Torch's hooks on the parts of a backbone: they fire in scans and steps, and their changes take effect.

Shapes: B batch, T time, D width, S state size.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minrl.backbone import Backbone
from minrl.cells import CELLS
from minrl.cells.convolution import ShortConvolution

WIDTH = 8


def model_of(cell: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(WIDTH, 2, cell, mlp=2.0)


def parts_of(model: Backbone) -> dict[str, nn.Module]:
    """Map names to the backbone, its blocks and all parts of a block."""
    own = {"backbone": model, "norm": model.norm}
    for i, block in enumerate(model.blocks):
        own[f"{i}"] = block
        own |= {f"{i}.{name}": part for name, part in block.named_children() if name != "mlp"}
        own |= {f"{i}.mlp.{name}": part for name, part in block.get_submodule("mlp").named_children()}
    return own


def scan(model: Backbone) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return model.scan(torch.randn(2, 5, WIDTH), torch.zeros(2, model.state_size), torch.rand(2, 5) < 0.3)


def step(model: Backbone) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return model.step(torch.randn(2, WIDTH), torch.zeros(2, model.state_size))


def once(model: Backbone) -> Counter[str]:
    """Count each part once, and dropout twice, once for each branch."""
    return Counter({name: 2 if name.endswith("dropout") else 1 for name in parts_of(model)})


@pytest.mark.parametrize("run", [scan, step])
@pytest.mark.parametrize("cell", CELLS)
def test_hooks_fire_once_a_call(cell: str, run: Callable[[Backbone], tuple[Tensor, Tensor]]) -> None:
    """Run with gradients and without, with hooks registered after a first call and with hooks removed again."""
    model = model_of(cell)
    wanted = run(model)
    with torch.no_grad():
        run(model)
    fired: dict[str, Counter[str]] = {kind: Counter() for kind in ("before", "after", "keywords")}
    handles = []
    for name, part in parts_of(model).items():

        def count(kind: str, name: str = name) -> Callable[..., None]:
            return lambda *_: fired[kind].update([name])

        handles += [
            part.register_forward_pre_hook(count("before")),
            part.register_forward_hook(count("after")),
            part.register_forward_hook(count("keywords"), with_kwargs=True),
        ]
    with torch.no_grad():
        run(model)
    assert all(counter == once(model) for counter in fired.values())
    for a, b in zip(run(model), wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert all(counter.total() == 2 * once(model).total() for counter in fired.values())
    for handle in handles:
        handle.remove()
    run(model)
    assert all(counter.total() == 2 * once(model).total() for counter in fired.values())


@pytest.mark.parametrize("run", [scan, step])
@pytest.mark.parametrize("cell", CELLS)
def test_backward_hooks_fire(cell: str, run: Callable[[Backbone], tuple[Tensor, Tensor]]) -> None:
    model = model_of(cell)
    run(model)[0].sum().backward()
    fired: Counter[str] = Counter()
    for name, part in parts_of(model).items():
        part.register_full_backward_hook(lambda *_, name=name: fired.update([name]))
    run(model)[0].sum().backward()
    assert fired == once(model)


@pytest.mark.parametrize("run", [scan, step])
def test_a_hook_replaces_the_output(run: Callable[[Backbone], tuple[Tensor, Tensor]]) -> None:
    """Zero the cell and the MLP of a block: it passes its input on, and the backbone ends in its norm."""
    model = model_of("mingru")
    with torch.no_grad():
        run(model)
        seen: list[Tensor] = []
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for block in model.blocks:
            block.get_submodule("cell").register_forward_hook(lambda _, inputs, output: (0 * output[0], output[1]))
            block.get_submodule("mlp").register_forward_hook(lambda _, inputs, output: 0 * output)
        y, _ = run(model)
        assert torch.allclose(y, nn.functional.layer_norm(seen[0], (WIDTH,)), atol=1e-5)


@pytest.mark.parametrize("run", [scan, step])
def test_hooks_on_all_modules(run: Callable[[Backbone], tuple[Tensor, Tensor]]) -> None:
    model, kinds = model_of("minlstm"), Counter[str]()
    with torch.no_grad():
        run(model)
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, *_: kinds.update([type(module).__name__])
        )
        try:
            run(model)
        finally:
            handle.remove()
    assert {"Backbone": 1, "Block": 2, "MinLSTM": 2, "ShortConvolution": 2, "GELU": 2}.items() <= kinds.items()


def test_a_call_is_a_scan_or_a_step_by_its_dimensions() -> None:
    """Call cells, convolutions, blocks and backbones; without a state they start from the initial one."""
    cells: list[Any] = [CELLS[name](WIDTH) for name in CELLS]
    for model in [*cells, ShortConvolution(WIDTH), model_of("mingru").blocks[0], model_of("gru"), model_of("mingru")]:
        x, empty = torch.randn(2, 5, WIDTH), model.initial_state(2)
        for a, b in zip(model(x), model.scan(x, empty), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        for a, b in zip(model(x[:, 0]), model.step(x[:, 0], empty), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        with pytest.raises(ValueError, match=r"x must be \(B, T, 8\)"):
            model_of("mingru").scan(x[:, 0])
