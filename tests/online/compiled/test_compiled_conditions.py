"""What runs in torch's operations instead of the compiled update, and that the run says why."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recall import recall, small
from torch import nn

from minrl.agents.ppo import MlpPolicy, RecurrentPPO
from minrl.kernels.guard import without_fused_kernels
from minrl.online.compiled.act import compiled_act
from minrl.online.compiled.conditions import obstacle_of_update


class Own(MlpPolicy):
    """A policy with formulas of its own."""

    def evaluate_actions(self, *arguments: Any) -> Any:
        return super().evaluate_actions(*arguments)


def changed(change: Callable[[RecurrentPPO], Any]) -> RecurrentPPO:
    model = small()
    change(model)
    return model


def add_hook(model: RecurrentPPO) -> None:
    model.policy.value_net.register_forward_hook(lambda *arguments: None)


def freeze(model: RecurrentPPO) -> None:
    model.policy.value_net.requires_grad_(False)


def replace_head(model: RecurrentPPO) -> None:
    model.policy.value_net = nn.Sequential(model.policy.value_net)


def other_optimizer(model: RecurrentPPO) -> None:
    model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), 0.1)


def decay(model: RecurrentPPO) -> None:
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.1


def optimizer_hook(model: RecurrentPPO) -> None:
    model.policy.optimizer.register_step_post_hook(lambda *arguments: None)


def parameter_hook(model: RecurrentPPO) -> None:
    model.policy.value_net.weight.register_hook(lambda gradient: gradient)


OBSTACLES: dict[str, tuple[Callable[[], RecurrentPPO], str]] = {
    "qrnn": (lambda: small(policy_kwargs={"cell": "qrnn"}), "blocks of QRNN"),
    "peepholes": (
        lambda: small(policy_kwargs={"cell": "lstm", "cell_options": {"peepholes": True}}),
        "blocks of LSTM",
    ),
    "two cells": (lambda: small(policy_kwargs={"cell": "mingru,minlstm"}), "blocks of"),
    "dropout": (lambda: small(policy_kwargs={"dropout": 0.1}), "dropout"),
    "gelu": (lambda: small(policy_kwargs={"net_arch": [4], "activation_fn": nn.GELU}), "tanh or ReLU"),
    "own method": (lambda: small(policy=Own), "evaluate_actions of its own"),
    "replaced head": (lambda: changed(replace_head), "linear layer"),
    "frozen": (lambda: changed(freeze), "frozen"),
    "optimizer": (lambda: changed(other_optimizer), "SGD"),
    "decay": (lambda: changed(decay), "Adam has options"),
    "hooked optimizer": (lambda: changed(optimizer_hook), "hooked"),
    "hooked parameter": (lambda: changed(parameter_hook), "hook"),
    "hooked module": (lambda: changed(add_hook), "hook"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_run_says_why_it_is_not_compiled(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, why = OBSTACLES[name]
    model = make()
    assert why in (obstacle_of_update(model.policy) or "")
    model.verbose = 1
    model._setup_learn(10)
    assert f"update: torch operations, as {obstacle_of_update(model.policy)}\n" in capsys.readouterr().out


def test_a_run_says_that_it_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    model = small(verbose=1)
    model._setup_learn(10)
    assert "update: one compiled call\n" in capsys.readouterr().out
    with without_fused_kernels():
        assert obstacle_of_update(model.policy) is not None
        assert compiled_act(model.policy) is None


def test_what_is_hooked_later_runs_in_torch() -> None:
    model, seen = small(recall()), []
    model.learn(24 * 3)
    assert compiled_act(model.policy) is not None
    model.policy.value_net.register_forward_hook(lambda *arguments: seen.append(1))
    assert compiled_act(model.policy) is None
    model.learn(24 * 3)
    # Each step, each minibatch of two epochs, and the values at the rollout's end and at time limits.
    assert len(seen) >= 24 + 2 * 3 + 1
