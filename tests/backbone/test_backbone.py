"""Blocks and backbones beyond the contract: their parts, their errors, and that the convolution is needed.

Shapes: B batch, T time, D width, S state size.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minrl.backbone import Backbone, Block
from minrl.cells import CELLS
from minrl.cells.convolution import ShortConvolution


@pytest.mark.parametrize("name", CELLS)
def test_state_is_that_of_its_parts(name: str) -> None:
    cell = CELLS[name](16).state_size
    assert Backbone(16, 3, name, conv=0).state_size == 3 * cell
    assert Backbone(16, 3, name).state_size == 3 * (cell + 3 * 16)
    assert Backbone(16, 3, name, conv=6).state_size == 3 * (cell + 5 * 16)


def test_parts_that_are_left_out_are_not_there() -> None:
    bare = Block(CELLS["mingru"](16), conv=0, mlp=0)
    assert sum(p.numel() for p in bare.parameters()) == 2 * 16 * 16 + 2 * 16 + 2 * 16  # gates, their bias, norm
    full = Block(CELLS["mingru"](16), conv=4, mlp=2)
    extra = sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in bare.parameters())
    assert extra == (4 * 16 + 16) + (2 * 16 * 32 + 32 + 16 + 2 * 16)  # convolution; MLP and its norm


def test_convolution_against_torch() -> None:
    conv = ShortConvolution(5, taps=4)
    with torch.no_grad():
        conv.bias.normal_()
    x = torch.randn(2, 20, 5)
    padded = nn.functional.pad(x.mT, (3, 0))
    wanted = nn.functional.conv1d(padded, conv.weight.T.unsqueeze(1), conv.bias, groups=5).mT
    assert torch.allclose(conv.scan(x)[0], wanted, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    model = Backbone(16, 2, dropout=0.5)
    x = torch.randn(2, 9, 16)
    assert not torch.allclose(model.scan(x)[0], model.scan(x)[0])
    model.eval()
    assert torch.equal(model.scan(x)[0], model.scan(x)[0])


def test_weights_survive_a_file_of_weights() -> None:
    first, second = Backbone(16, 2), Backbone(16, 2)
    x = torch.randn(2, 9, 16)
    assert not torch.allclose(first(x)[0], second(x)[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x)[0], second(x)[0])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((16, 2, "mingur"), {}, 'unknown cell "mingur"; did you mean "mingru"'),
        ((16, 2, "zzz"), {}, 'unknown cell "zzz"; choose from .*minlstm'),
        ((16, 2, "mingru"), {"expnad": 2}, 'has no option "expnad"; did you mean "expand"'),
        ((16, 2, "gru"), {"context": 20}, 'has no option "context"'),
        ((0, 2), {}, "width and depth must be at least 1, got 0 and 2"),
        ((16, 0), {}, "width and depth must be at least 1, got 16 and 0"),
        ((16, 2), {"conv": 1}, "at least 2 taps, got 1"),
        ((16, 2, "transformer"), {"heads": 5}, "heads must divide the width"),
    ],
)
def test_bad_options(arguments: tuple[object, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(*arguments, **options)


def accuracy_at_repeating(conv: int) -> float:
    """Return the accuracy on RepeatPrevious (k = 4) with new sequences, after training a small minGRU backbone."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    embed, model, head = nn.Embedding(4, 32), Backbone(32, 2, "mingru", conv=conv), nn.Linear(32, 4)
    parts = nn.ModuleList([embed, model, head])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=3e-3)

    def logits(symbols: Tensor) -> Tensor:
        out: Tensor = head(model(embed(symbols))[0])
        return out

    for _ in range(150):
        symbols = torch.randint(4, (16, 48), generator=generator)
        loss = nn.functional.cross_entropy(logits(symbols)[:, 4:].flatten(0, 1), symbols[:, :-4].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    symbols = torch.randint(4, (64, 48), generator=generator)
    with torch.no_grad():
        right = logits(symbols)[:, 4:].argmax(-1) == symbols[:, :-4]
    return right.float().mean().item()


@pytest.mark.slow
def test_the_convolution_lets_mingru_copy() -> None:
    """Repeat the token of four steps ago: exact with the short convolution, half wrong without it."""
    assert accuracy_at_repeating(conv=4) >= 0.99
    assert accuracy_at_repeating(conv=0) <= 0.7


def test_a_pattern_mixes_cells() -> None:
    """Repeat the pattern over the blocks, and hand each option to the cells that have it."""
    model = Backbone(8, 5, pattern=("mingru", "minlstm", "transformer"), expand=2, heads=4)
    kinds = [type(block.cell).__name__ for block in model.blocks]
    assert kinds == ["MinGRU", "MinLSTM", "Transformer", "MinGRU", "MinLSTM"]
    assert getattr(model.blocks[2].cell, "heads", None) == 4
    torch.manual_seed(0)
    by_name, by_pattern = Backbone(8, 2, "gru, lstm"), Backbone(8, 2, pattern=("gru", "lstm"))
    by_pattern.load_state_dict(by_name.state_dict())
    x = torch.randn(2, 7, 8)
    assert torch.equal(by_name.scan(x)[0], by_pattern.scan(x)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "mingru,lstn"}, 'unknown cell "lstn"; did you mean "lstm"'),
        ({"pattern": ("mingru", "transformer"), "head": 2}, 'has no option "head"'),
        ({"cell": "mingru", "heads": 2}, "cell 'mingru' has no option \"heads\""),
    ],
)
def test_a_pattern_of_unknown_cells(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(8, 2, **options)
