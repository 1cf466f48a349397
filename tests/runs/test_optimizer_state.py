"""Optimizer states from a file are compared with the parameters: fused steps write through bare pointers."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from minrl.runs.optimizer_state import load_optimizer, not_finite


def stepped(kind: type[torch.optim.Optimizer], **options: Any) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """Return a model and its optimizer after one step."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer: Any = kind(model.parameters(), lr=0.25, fused=True, **options)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


ENTRY = torch.zeros(2, 3)
FOREIGN = {
    "one element short": ENTRY.reshape(-1)[:-1],
    "another shape": ENTRY.T.contiguous(),
    "as many elements": ENTRY.reshape(6),
    "larger": torch.zeros(20, 30),
    "empty": torch.zeros(0),
    "another type": ENTRY.double(),
    "half": ENTRY.half(),
    "sparse": ENTRY.to_sparse(),
    "not finite": torch.full((2, 3), torch.inf),
    "no tensor": [0.0] * 6,
    "nothing": None,
}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_entries_are_refused(kind: type[torch.optim.Optimizer], name: str, foreign: str) -> None:
    model, optimizer = stepped(kind)
    state = deepcopy(optimizer.state_dict())
    state["state"][0][name] = FOREIGN[foreign]
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="parameter 0"):
        load_optimizer(optimizer, state)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("change", ["dropped", "added", "numbers", "groups", "table"])
def test_other_structures_are_refused(change: str) -> None:
    _, optimizer = stepped(torch.optim.Adam)
    state: Any = deepcopy(optimizer.state_dict())
    if change == "dropped":
        del state["state"][0]["exp_avg"]
    elif change == "added":
        state["state"][0]["max_exp_avg_sq"] = ENTRY
    elif change == "numbers":
        state["state"][7] = state["state"].pop(0)
    elif change == "groups":
        state["param_groups"][0]["params"] = [0]
    else:
        state = [state]
    with pytest.raises(ValueError, match=r"optimizer"):
        load_optimizer(optimizer, state)


def test_state_and_learning_rate_are_taken_and_no_other_setting() -> None:
    model, optimizer = stepped(torch.optim.Adam)
    saved = deepcopy(optimizer.state_dict())
    group = saved["param_groups"][0]
    group["lr"], group["betas"], group["maximize"], group["amsgrad"] = 0.5, (2.0, "x"), True, True
    other = torch.optim.Adam(model.parameters(), lr=0.25, fused=True)
    load_optimizer(other, saved)
    assert (other.param_groups[0]["lr"], other.param_groups[0]["betas"]) == (0.5, (0.9, 0.999))
    assert not other.param_groups[0]["maximize"]
    other.step()


def test_what_is_not_finite_is_named() -> None:
    model, optimizer = stepped(torch.optim.Adam)
    assert not_finite(model.named_parameters(), optimizer) is None
    optimizer.state[model.bias]["exp_avg_sq"][1] = torch.inf
    assert not_finite(model.named_parameters(), optimizer) == "exp_avg_sq of bias"
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    assert not_finite(model.named_parameters(), optimizer) == "weight"
