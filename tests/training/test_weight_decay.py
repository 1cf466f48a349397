"""Weight decay by parameter, for every cell and agent, as in papers and released code.

The lists are those of the released code: mamba_ssm/modules/mamba_simple.py and mamba2.py (`_no_weight_decay`),
models/s4/s4d.py (`register`), s5/train_helpers.py (`opt_config="standard"`), xlstm/utils.py ("weight" in the name),
RWKV-v5/src/model.py (matrices with ".weight" in the name) and minGPT (no biases, norms and embeddings).
"""

from typing import Any

import pytest
import torch
from ppo_models import small
from torch import nn
from worlds import drift_episodes

from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.cells import CELLS
from minrl.data.task import Task
from minrl.training.optimizer import decayed_groups

# Options with which a cell has all its parameters.
OPTIONS: dict[str, dict[str, Any]] = {
    "mingru": {"expand": 2},
    "minlstm": {"expand": 2},
    "gru": {"expand": 2},
    "lstm": {"expand": 2, "peepholes": True},
    "qrnn": {"expand": 2},
}
# (with decay, without)
GROUPS = {
    "mingru": "gates.weight down.weight | gates.bias",
    "minlstm": "gates.weight down.weight | gates.bias",
    "gru": "gru.weight_ih_l0 gru.weight_hh_l0 down.weight | gru.bias_ih_l0 gru.bias_hh_l0",
    "lstm": "lstm.weight_ih_l0 lstm.weight_hh_l0 down.weight | peepholes lstm.bias_ih_l0 lstm.bias_hh_l0",
    "transformer": "qkv.weight out.weight | qkv.bias out.bias",
    "mamba": "in_proj.weight conv.weight x_proj.weight dt_proj.weight out_proj.weight | A_log D conv.bias dt_proj.bias",
    "aaren": "query.weight key.weight value.weight out.weight | token query.bias value.bias out.bias",
    "mamba2": "in_proj.weight conv.weight out_proj.weight | dt_bias A_log D conv.bias norm.weight",
    "mlstm": "proj_up.weight conv.weight q_proj.weight k_proj.weight v_proj.weight igate.weight fgate.weight "
    "proj_down.weight | outnorm learnable_skip conv.bias igate.bias fgate.bias",
    "rwkv4": "key.weight value.weight receptance.weight output.weight "
    "| time_mix_key time_mix_value time_mix_receptance time_decay time_first",
    "slstm": "conv.weight igate.weight fgate.weight zgate.weight ogate.weight "
    "| recurrent_kernel bias group_norm conv.bias",
    "lru": "C_re C_im | nu_log theta_log gamma_log B_re B_im D",
    "s4d": "C output_linear.weight | log_dt log_A_real A_imag D output_linear.bias",
    "s5": "C | Lambda_re Lambda_im B D log_step",
    "rglru": "input_gate_weight recurrent_gate_weight linear_y.weight linear_x.weight conv_1d.weight linear_out.weight "
    "| input_gate_bias recurrent_gate_bias recurrent_param linear_y.bias linear_x.bias conv_1d.bias linear_out.bias",
    "qrnn": "linear.weight down.weight | linear.bias",
    "sru": "weight | bias",
    "rwkv6": "receptance.weight key.weight value.weight gate.weight output.weight "
    "| time_maa_x time_maa_w time_maa_k time_maa_v time_maa_r time_maa_g time_maa_w1 time_maa_w2 time_decay "
    "time_decay_w1 time_decay_w2 time_faaaa ln_x.weight ln_x.bias",
}
# Of a block of an agent's backbone, without its cell.
BLOCK = """conv.weight mlp.1.weight mlp.3.weight
| conv.bias norm.weight norm.bias mlp.0.weight mlp.0.bias mlp.1.bias mlp.3.bias"""


def names(module: nn.Module) -> tuple[set[str], set[str]]:
    """Return the names of parameters with weight decay and of those without."""
    with_decay, without = decayed_groups(module, 0.1)
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.1, 0.0)
    named = {id(parameter): name for name, parameter in module.named_parameters()}
    found = [{named[id(parameter)] for parameter in group["params"]} for group in (with_decay, without)]
    assert len(with_decay["params"]) + len(without["params"]) == len(named)
    return found[0], found[1]


def listed(text: str, prefix: str = "") -> tuple[set[str], set[str]]:
    with_decay, without = ({prefix + name for name in part.split()} for part in text.split("|"))
    return with_decay, without


@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_of_every_cell(cell: str) -> None:
    assert names(CELLS[cell](16, **OPTIONS.get(cell, {}))) == listed(GROUPS[cell])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ["decision", "clone"])
def test_every_parameter_of_an_agent(kind: str, cell: str) -> None:
    task = Task.of(drift_episodes())
    options: dict[str, Any] = {"width": 16, "depth": 1, "cell": cell, "cell_options": OPTIONS.get(cell, {})}
    agent: nn.Module
    if kind == "clone":
        agent = CloneAgent(CloneConfig(**options, previous_action=True), task)
        own = "embed_observation.weight embed_action.weight head.linear.weight "
        own += "| embed_observation.bias embed_action.bias head.linear.bias"
    else:
        agent = DecisionAgent(DecisionConfig(**options, tokens="triple", time_embedding=True), task)
        own = "embed_return.weight embed_observation.weight embed_action.weight head.linear.weight "
        own += "| embed_return.bias embed_observation.bias embed_action.bias embed_time.weight head.linear.bias"
    parts = [
        listed(own),
        listed(BLOCK, "backbone.blocks.0."),
        listed(GROUPS[cell], "backbone.blocks.0.cell."),
        listed("| norm.weight norm.bias", "backbone."),
    ]
    assert names(agent) == tuple(set.union(*groups) for groups in zip(*parts, strict=True))


@pytest.mark.parametrize("family", ["Lstm", ""])
def test_ppo_decays_nothing(family: str) -> None:
    """Leave Stable-Baselines3's Adam one group without weight decay (arXiv 1707.06347 has none)."""
    (group,) = small(family).policy.optimizer.param_groups
    assert isinstance(group["params"][0], torch.nn.Parameter)
    assert group["weight_decay"] == 0


def test_frozen_parameters_are_in_no_group() -> None:
    cell = CELLS["mamba"](16)
    cell.in_proj.requires_grad_(False)
    groups = decayed_groups(cell, 0.1)
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])
