"""Whether a policy's update and action run as one compiled call, and if not, why."""

from typing import Any

import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import nn

from minrl.backbone import Backbone
from minrl.backbone.compiled_scan import have_shapes
from minrl.backbone.weights import EVERY, block_weights, have_cell_shapes, stack_weights
from minrl.kernels.guard import is_unwatched, runs_alone
from minrl.kernels.scan import cpu
from minrl.online.inputs.images import PartsExtractor
from minrl.online.trunk import Trunk

HEADS = (CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution, DiagGaussianDistribution)
ACTIVATIONS = (nn.Tanh, nn.ReLU)
_EXTRACTORS = (FlattenExtractor, PartsExtractor, CombinedExtractor, nn.Flatten, nn.ModuleDict)
# Methods whose formulas the kernels have; a policy with one of its own runs in torch's operations.
_METHODS = (
    "evaluate_actions", "forward", "predict_values", "extract_features", "initial_state",
    "_get_action_dist_from_latent", "_features", "_scan", "_step", "_scan_segments", "_segment_features",
    "_no_previous", "_of_both", "_critic_latent", "_counted_from_0",
)  # fmt: skip
# The compiled update has one thread. From about 4 ms of work in a minibatch (rows times parameters) torch's operations,
# which cost 2.4 ms besides the work, are faster with two.
_LARGE = 5e7
# Further methods of `predict` in torch's operations.
OF_PREDICT = ("_memory", "_state", "_unpacked", "_checked", "obs_to_tensor", "is_vectorized_observation")
_NAMES = frozenset((*_METHODS, *OF_PREDICT))
# Options of torch.optim.Adam that the step does not have.
_OFF = ("weight_decay", "amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")


def obstacle_of_update(policy: Any, rows: int = 0) -> str | None:
    """Return why the update of a policy with minibatches of `rows` steps is no compiled call; None where it is."""
    found = obstacle(policy) or _obstacle_of_optimizer(policy)
    if found is None and torch.get_num_threads() > 1 and rows * sum(p.numel() for p in policy.parameters()) > _LARGE:
        return "minibatches are large enough for several threads"
    return found


def has_own_methods(policy: Any) -> bool:
    """Return True if a policy object has a method of its own that its class has not, or hooks."""
    return bool(policy._forward_hooks or policy._forward_pre_hooks) or not vars(policy).keys().isdisjoint(_NAMES)


def is_overridden(policy: Any, method: str) -> bool:
    """Return True if a subclass of the policy whose formulas the kernels have overrides a method of it."""
    kind = next(base for base in type(policy).__mro__ if "formulas" in vars(base))
    return getattr(type(policy), method, None) is not getattr(kind, method, None)


def obstacle(policy: Any) -> str | None:
    """Return why neither acting nor the update of a policy runs as one compiled call."""
    if not runs_alone():
        return "torch's operations are asked for" if is_unwatched() else "torch's operations are watched"
    if not cpu.available():
        return "numba does not run here"
    if policy.device.type != "cpu":
        return f"the policy is on {policy.device.type}"
    if not policy.formulas:
        return f"{type(policy).__name__} is a policy of another kind"
    for name in _METHODS:
        if name in vars(policy) or is_overridden(policy, name):
            return f"{type(policy).__name__} has a {name} of its own"
    if getattr(policy, "apart", False):
        return "the critic has settings of its own"
    if policy.reference is not None:
        return "the loss has a pretrained policy in it"
    if policy.use_sde or type(policy.action_dist) not in HEADS:
        return f"no kernel has the distribution {type(policy.action_dist).__name__}"
    return _obstacle_of_modules(policy)


def _obstacle_of_modules(policy: Any) -> str | None:
    extractors = [policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor]
    modules = [module for extractor in extractors for module in extractor.modules()]
    if any(type(module) not in _EXTRACTORS for module in modules):
        return f"the features extractor {type(policy.features_extractor).__name__} has a network"
    heads = policy.mlp_extractor
    layers = [*heads.policy_net, *heads.value_net]
    activations = {type(layer) for layer in layers if type(layer) is not nn.Linear}
    if type(heads) is not MlpExtractor or not activations <= set(ACTIVATIONS) or len(activations) > 1:
        return "the heads have other layers than linear ones with tanh or ReLU"
    if type(policy.action_net) is not nn.Linear or type(policy.value_net) is not nn.Linear:
        return "the action or value net is not a linear layer"
    trunks = [policy.trunk, policy.critic_trunk] if policy.formulas == "backbone" else []
    for trunk in trunks:
        found = None if trunk is None else _obstacle_of_trunk(trunk)
        if found:
            return found
    if policy.formulas == "lstm" and any(
        type(lstm) is not nn.LSTM or (lstm.dropout and lstm.num_layers > 1)
        for lstm in (policy.lstm_actor, policy.lstm_critic)
        if lstm is not None
    ):
        return "the LSTM has dropout"
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in policy.modules()):
        return "a module has a hook"
    parameters = list(policy.parameters())
    if {p.dtype for p in parameters} not in ({torch.float32}, {torch.float64}):
        return "weights are neither float32 nor float64"
    if not all(p.is_contiguous() and p.requires_grad and type(p) is nn.Parameter for p in parameters):
        return "a parameter is frozen or not contiguous"
    return "a parameter has a hook" if any(p._backward_hooks for p in parameters) else None


def _obstacle_of_trunk(trunk: Any) -> str | None:
    if type(trunk) is not Trunk or type(trunk.backbone) is not Backbone or type(trunk.embed) is not nn.Linear:
        return f"no kernel has a {type(trunk).__name__}"
    if any(module.p for module in trunk.modules() if isinstance(module, nn.Dropout)):
        return "dropout is drawn in torch's operations"
    backbone = trunk.backbone
    stack = stack_weights(backbone, trunk.embed.weight.dtype, EVERY)
    if stack is None:
        cells = dict.fromkeys(type(getattr(block, "cell", block)).__name__ for block in backbone.blocks)
        return f"no kernel has these blocks of {', '.join(cells)}"
    for block in backbone.blocks:
        if not have_shapes(block_weights(block), block, backbone.width) or not have_cell_shapes(block):
            return "the weights of a block do not fit each other"
    return None


def _obstacle_of_optimizer(policy: Any) -> str | None:
    optimizer = policy.optimizer
    if type(optimizer) is not torch.optim.Adam:
        return f"the optimizer is {type(optimizer).__name__}"
    hooks = [vars(optimizer).get(f"_optimizer_step_{when}_hooks") for when in ("pre", "post")]
    if any(hooks) or "step" in vars(optimizer):
        return "the optimizer is hooked"
    if len(optimizer.param_groups) != 1:
        return "the optimizer has several groups of parameters"
    group = optimizer.param_groups[0]
    if any(group.get(option) for option in _OFF):
        return "Adam has options beside its rates"
    if list(map(id, group["params"])) != list(map(id, policy.parameters())):
        return "the optimizer has other parameters than the policy"
    return None
