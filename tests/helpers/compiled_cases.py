"""Policies, distributions and options that the compiled update and action are compared on with torch's operations."""

from typing import Any

import numpy as np
from gymnasium import spaces
from recall import collected, recall
from torch import nn

from minrl.agents.ppo import RecurrentPPO
from minrl.kernels.guard import without_fused_kernels

BOX = spaces.Box(-1, 1, (2,), np.float32)
CHOICES, SWITCHES = spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)
# The policy, its options, the action space and the algorithm's options.
CASES: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "plain": ("Mlp", {}, None, {}),
    "no convolution": ("Mlp", {"conv": 0, "depth": 1}, None, {}),
    "mlp": ("Mlp", {"conv": 3, "mlp": 2.0}, BOX, {"ent_coef": 0.01}),
    "mlp without convolution": ("Mlp", {"conv": 0, "mlp": 1.0, "separate_critic": True}, SWITCHES, {"vf_coef": 0.1}),
    "wider cell": ("Mlp", {"cell_options": {"expand": 1.5, "signed": True}}, CHOICES, {"ent_coef": 0.1}),
    "minlstm": ("Mlp", {"cell": "minlstm", "mlp": 1.0}, BOX, {"clip_range_vf": 0.05}),
    "gru": ("Mlp", {"cell": "gru"}, BOX, {"ent_coef": 0.01}),
    "wider gru": (
        "Mlp",
        {"cell": "gru", "conv": 0, "mlp": 1.0, "separate_critic": True, "cell_options": {"expand": 1.5, "bias": False}},
        CHOICES,
        {"segment_length": 7},
    ),
    "lstm blocks": ("Mlp", {"cell": "lstm", "mlp": 1.0}, SWITCHES, {"segment_length": 5}),
    "wider lstm blocks": ("Mlp", {"cell": "lstm", "conv": 2, "cell_options": {"expand": 2.0, "bias": False}}, None, {}),
    "separate critic": ("Mlp", {"separate_critic": True, "depth": 1}, CHOICES, {"normalize_advantage": False}),
    "previous step": ("Mlp", {"previous_action": True, "previous_reward": True}, BOX, {"segment_length": 7}),
    "layers": ("Mlp", {"net_arch": {"pi": [8], "vf": [12, 4]}, "activation_fn": nn.ReLU}, SWITCHES, {}),
    "one minibatch": ("Mlp", {}, None, {"batch_size": None, "n_epochs": 3}),
    "minibatches of one step": (
        "Mlp",
        {},
        None,
        {"n_steps": 4, "batch_size": 1, "n_epochs": 1, "normalize_advantage": False},
    ),
    "small steps": ("Mlp", {}, None, {"max_grad_norm": 0.01, "learning_rate": lambda left: 0.01 * left}),
    "refreshed": ("Mlp", {}, None, {"state_refresh": "epoch", "learning_rate": 0.01}),
    "early stop": ("Mlp", {}, None, {"target_kl": 1e-4, "learning_rate": 0.01, "n_epochs": 5}),
    "lstm": ("MlpLstm", {}, None, {"ent_coef": 0.01}),
    "lstm, two layers": ("MlpLstm", {"n_lstm_layers": 2, "net_arch": []}, BOX, {"segment_length": 5}),
    "shared lstm": ("MlpLstm", {"shared_lstm": True, "enable_critic_lstm": False}, SWITCHES, {}),
    "linear critic": ("MlpLstm", {"enable_critic_lstm": False}, CHOICES, {"clip_range_vf": 0.1}),
    "lstm without bias": ("MlpLstm", {"lstm_kwargs": {"bias": False}, "activation_fn": nn.ReLU}, None, {}),
}


def ready(name: str, *, double: bool = False) -> RecurrentPPO:
    """Create a model with a rollout that torch's operations have collected."""
    policy, policy_options, space, options = CASES[name]
    width = {"lstm_hidden_size": 8} if policy == "MlpLstm" else {"width": 8}
    model = RecurrentPPO(
        f"{policy}Policy",
        recall(space=space),
        policy_kwargs={**width, **policy_options},
        **{"n_steps": 24, "batch_size": 24, "n_epochs": 2, "seed": 0, "device": "cpu", **options},
    )
    if double:
        model.policy.double()
        model.forget()
    with without_fused_kernels():
        collected(model)
    np.random.seed(1)  # noqa: NPY002, the generator of the minibatches
    return model
