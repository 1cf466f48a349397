"""Policies of sb3-contrib's RecurrentPPO: LSTM layers between features and heads, trained on whole segments.

Module and parameter names are sb3-contrib's, so that its weights load
(https://github.com/Stable-Baselines-Team/stable-baselines3-contrib, sb3_contrib/common/recurrent/policies.py, 2.9.2).

Shapes: B environments or segments, T time, F features, L layers, H hidden width, S state size.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.lstm import lstm_layer
from minrl.online.inputs.images import OnImages, OnParts
from minrl.online.policy import Array, Features, Outputs, RecurrentPolicy
from minrl.system.names import nearest

# Options of torch.nn.LSTM that would change the state's layout or precision, and their only supported values.
_FIXED: dict[str, tuple[Any, ...]] = {
    "batch_first": (False,),
    "bidirectional": (False,),
    "proj_size": (0,),
    "dtype": (None, torch.float32),
}
_FREE = ("bias", "dropout", "device")


class LstmPolicy(RecurrentPolicy):
    """Actor with an LSTM, and a critic with its own, the actor's or none.

    All arguments have the meaning of sb3-contrib's RecurrentActorCriticPolicy and Stable-Baselines3's
    ActorCriticPolicy, in the same order.

    Args:
        lstm_hidden_size: H.
        n_lstm_layers: L.
        shared_lstm: the critic reads the actor's latents; its gradient does not reach the LSTM.
        enable_critic_lstm: an LSTM of the critic's own. With neither, the critic is a linear layer on the features.
        lstm_kwargs: `bias` and `dropout` (probability between layers while training) of `torch.nn.LSTM`.

    Raises:
        AssertionError: for a shared LSTM beside the critic's own, or on features that are not shared.
        ValueError: for options of the LSTM that this policy cannot have.
    """

    formulas = "lstm"

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: Any = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        lstm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        assert not (shared_lstm and enable_critic_lstm), (
            "You must choose between shared LSTM, seperate or no LSTM for the critic."
        )
        assert not (shared_lstm and not share_features_extractor), (
            "If the features extractor is not shared, the LSTM cannot be shared."
        )
        self.lstm_output_dim = lstm_hidden_size
        self.lstm_hidden_state_shape = (n_lstm_layers, 1, lstm_hidden_size)
        self.shared_lstm, self.enable_critic_lstm = shared_lstm, enable_critic_lstm
        self.lstm_kwargs = _checked_options(lstm_kwargs or {})
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch, activation_fn, ortho_init, use_sde, log_std_init,
            full_std, use_expln, squash_output, features_extractor_class, features_extractor_kwargs,
            share_features_extractor, normalize_images, optimizer_class, optimizer_kwargs,
        )  # fmt: skip
        # After the heads, as in sb3-contrib: equal seeds give equal weights, and no orthogonal initialisation.
        self.lstm_actor = self._new_lstm()
        self.critic: nn.Linear | None = None
        self.lstm_critic: nn.LSTM | None = None
        if enable_critic_lstm:
            self.lstm_critic = self._new_lstm()
        elif not shared_lstm:
            self.critic = nn.Linear(int(self.features_dim), lstm_hidden_size)
        self.memory_size = 2 * n_lstm_layers * lstm_hidden_size
        self.state_size = self.memory_size * (2 if enable_critic_lstm else 1)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _new_lstm(self) -> nn.LSTM:
        layers, _, width = self.lstm_hidden_state_shape
        # Of MultiDiscrete observations it is a numpy integer.
        return nn.LSTM(int(self.features_dim), width, num_layers=layers, **self.lstm_kwargs)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = MlpExtractor(self.lstm_output_dim, self.net_arch, self.activation_fn, device=self.device)

    def _scan(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        of_actor, of_critic = state.tensor_split([self.memory_size], dim=1)
        actor, last = scan_layers(self.lstm_actor, features[0], of_actor, reset)
        if self.lstm_critic is None:
            return actor, self._critic_latent(actor, features[1]), last
        critic, last_of_critic = scan_layers(self.lstm_critic, features[1], of_critic, reset)
        return actor, critic, torch.cat([last, last_of_critic], dim=1)

    def _step(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        state = state.masked_fill(reset.unsqueeze(1), 0.0)
        parts = state.chunk(state.shape[1] // self.lstm_output_dim, dim=1)
        layers = 2 * self.lstm_hidden_state_shape[0]
        actor, after = step_layers(self.lstm_actor, features[0], parts[:layers])
        if self.lstm_critic is None or len(parts) == layers:  # `predict` has no state of the critic
            return actor, self._critic_latent(actor, features[1]), torch.cat(after, dim=1)
        critic, after_critic = step_layers(self.lstm_critic, features[1], parts[layers:])
        return actor, critic, torch.cat(after + after_critic, dim=1)

    def _critic_latent(self, actor: Tensor, features: Tensor) -> Tensor:
        return actor.detach() if self.critic is None else self.critic(features)

    def _memory(self, state: tuple[Array, ...], batch_size: int) -> Tensor:
        """Convert to sb3-contrib's h and c of the actor, (L, B, H) each, which `predict` needs."""
        layers, _, width = self.lstm_hidden_state_shape
        shape = (layers, batch_size, width)
        parts = [np.asarray(part, dtype=np.float32) for part in state]
        if [part.shape for part in parts] != [shape, shape]:
            raise ValueError(
                f"state must be the LSTM's (h, c) of shape {shape} each (layers, environments, width), "
                f"got {len(parts)} of shape {', '.join(str(part.shape) for part in parts)}"
            )
        memory = np.concatenate([part[layer] for layer in range(layers) for part in parts], axis=1)
        return torch.from_numpy(memory).to(self.device, self._precision())

    def _state(self, memory: Tensor) -> tuple[Array, ...]:
        layers, _, width = self.lstm_hidden_state_shape
        of_actor = memory[:, : self.memory_size].cpu().numpy().reshape(-1, layers, 2, width)
        h, c = np.ascontiguousarray(of_actor.transpose(2, 1, 0, 3))
        return h, c

    def _get_constructor_parameters(self) -> dict[str, Any]:
        layers, _, width = self.lstm_hidden_state_shape
        return {
            **super()._get_constructor_parameters(),
            "lstm_hidden_size": width,
            "n_lstm_layers": layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }


class LstmCnnPolicy(OnImages, LstmPolicy):
    """`LstmPolicy` on images, without layers between the LSTM and the heads beside the network for images.

    Args:
        observation_space, arguments, keywords: as for `LstmPolicy` and `minrl.online.inputs.images.OnImages`.
        features_extractor_class: another network for images.
    """

    def __init__(
        self, observation_space: Any, *arguments: Any, features_extractor_class: Any = None, **keywords: Any
    ) -> None:
        if features_extractor_class is None and len(arguments) < 3 and keywords.get("net_arch") is None:
            keywords["net_arch"] = []  # as Stable-Baselines3 has it beside NatureCNN
        super().__init__(observation_space, *arguments, features_extractor_class=features_extractor_class, **keywords)


class LstmMultiInputPolicy(OnParts, LstmPolicy):
    """`LstmPolicy` on Dict observations, whose images have a network of their own."""


def scan_layers(lstm: nn.LSTM, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Scan whole segments: (B, T, F), (B, 2LH) h | c of each layer, (B, T) -> (B, T, H), (B, 2LH)."""
    last = []
    for number, part in enumerate(state.chunk(lstm.num_layers, dim=1)):
        if number and lstm.dropout:
            x = F.dropout(x, lstm.dropout, lstm.training)
        x, after = lstm_layer(x, lstm.all_weights[number], part, reset)
        last.append(after)
    return x, torch.cat(last, dim=1)


def step_layers(lstm: nn.LSTM, x: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    """Compute one step: (B, F) and h, c (B, H) of each layer in turn -> (B, H) and the next h, c."""
    after = []
    for number, weights in enumerate(lstm.all_weights):
        if number and lstm.dropout:
            x = F.dropout(x, lstm.dropout, lstm.training)
        x, c = torch.lstm_cell(x, parts[2 * number : 2 * number + 2], *weights)
        after += [x, c]
    return x, after


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return `options`; raise ValueError for those that this policy's LSTM does not support."""
    for name, value in options.items():
        if name in ("input_size", "hidden_size", "num_layers"):
            raise ValueError(f"lstm_kwargs: leave {name} out; lstm_hidden_size and n_lstm_layers set it")
        if name not in (*_FREE, *_FIXED):
            raise ValueError(f'lstm_kwargs: torch.nn.LSTM has no option "{name}"; {nearest(name, (*_FREE, *_FIXED))}')
        if value not in _FIXED.get(name, (value,)):
            raise ValueError(f"lstm_kwargs: {name} can only be {_FIXED[name][-1]} here, got {value!r}")
    return options
