"""Policies with a backbone of any cell of `minrl.cells` between features and heads.

Shapes: B environments or segments, T time, F features, D width, S state size, P width of the previous
action and reward.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from minrl.backbone import Backbone
from minrl.online.inputs.critic import critic_backbone, split_space
from minrl.online.inputs.images import OnImages, OnParts
from minrl.online.inputs.segments import Segments, each
from minrl.online.policy import Features, Outputs, RecurrentPolicy
from minrl.online.pretrained.reference import (
    PretrainedHead,
    PretrainedTrunk,
    Reference,
    StartsOnline,
    check_start,
    open_run,
)
from minrl.online.trunk import Trunk
from minrl.runs.checkpoint import Checkpoint
from minrl.system.names import nearest

# A trunk's scan or step: features, previous-step input, hidden state and resets to latents and the next state.
Run = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class BackbonePolicy(RecurrentPolicy):
    """Actor and critic on one trunk, or on one each.

    Args:
        observation_space, action_space, lr_schedule: as for Stable-Baselines3's `ActorCriticPolicy`.
        cell: a name in `minrl.cells.CELLS`.
        width: D.
        depth: number of blocks.
        conv: taps of each block's short convolution, 0 for none; without it minGRU cannot copy what it saw a few
            steps ago.
        mlp: hidden width of each block's MLP over D, 0 for none.
        dropout: probability on the blocks' residual branches while training.
        cell_options: options of the cell.
        separate_critic: a trunk of its own for the critic.
        critic_keys: keys of a Dict observation that the critic alone sees; acting never reads them.
        critic: settings of the critic's own trunk, see `minrl.online.inputs.critic`: `{"cell": None}` has no memory,
            `{"keys": [...]}` sees those keys alone.
        previous_action: the last action as an input.
        previous_reward: the last reward as an input; `predict` then takes `reward`.
        pretrained: the folder of a run whose agent, trained on a data set, is the start: trunk, observation
            normalisation and actor; the value head is fresh. It brings its own cell, width, depth, conv, mlp and cell
            options. Exploration then starts at `log_std_init=-2`. A fresh critic misleads an actor that is good
            already: `separate_critic=True`, `pretrained_kl=1` and a small learning rate preserve its skill.
        pretrained_kl: weight of the divergence KL(policy | pretrained policy) in the loss: a number, which decays
            linearly to zero over training, or a function of the progress that remains (from 1 to 0).
        net_arch: layers of the heads between the trunk and the outputs, as in Stable-Baselines3; none by default.
        keywords: all others of `ActorCriticPolicy`.

    Raises:
        ValueError: for an unknown cell or option, or sizes below 1.
    """

    formulas = "backbone"

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Any,
        *,
        cell: str = "mingru",
        width: int = 128,
        depth: int = 2,
        conv: int = 4,
        mlp: float = 0.0,
        dropout: float = 0.0,
        cell_options: dict[str, Any] | None = None,
        separate_critic: bool = False,
        critic_keys: Sequence[str] = (),
        critic: dict[str, Any] | None = None,
        previous_action: bool = False,
        previous_reward: bool = False,
        pretrained: str | Path | Checkpoint | None = None,
        pretrained_kl: float | Schedule = 0.0,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        **keywords: Any,
    ) -> None:
        _check_known(keywords)
        backbone = {"cell": cell, "width": width, "depth": depth, "conv": conv, "mlp": mlp, "dropout": dropout}
        self.backbone_options: dict[str, Any] = {**backbone, **(cell_options or {})}
        # In a tuple, so that the agent is no submodule.
        self._start: tuple[StartsOnline, ...] = ()
        if pretrained is not None:
            agent, pretrained = open_run(pretrained)
            self._start = (agent,)
            previous_action = True
            keywords.setdefault("log_std_init", -2.0)
        elif pretrained_kl:
            raise ValueError("pretrained_kl needs a pretrained run")
        self.pretrained: Checkpoint | None = pretrained
        self.pretrained_kl = pretrained_kl
        self.trunk_options: dict[str, Any] = {
            **backbone,
            "cell_options": cell_options,
            "separate_critic": separate_critic,
            "critic_keys": critic_keys,
            "critic": critic,
            "previous_action": previous_action,
            "previous_reward": previous_reward,
            "pretrained": pretrained,
            "pretrained_kl": pretrained_kl,
        }
        self.critic_options = critic or {}
        self.apart = bool(critic_keys) or critic is not None
        if self.apart and pretrained is not None:
            raise ValueError(
                "pretrained: leave out critic_keys and critic; separate_critic gives the critic its own trunk"
            )
        self.separate_critic = separate_critic or self.apart
        self.actor_space, self.critic_space = split_space(
            observation_space, critic_keys, self.critic_options.get("keys")
        )
        if self.apart:
            keywords["share_features_extractor"] = False
        self.previous_action, self.previous_reward = previous_action, previous_reward
        super().__init__(observation_space, action_space, lr_schedule, net_arch=net_arch or [], **keywords)

    def _build_mlp_extractor(self) -> None:
        if not self.share_features_extractor and not self.separate_critic:
            raise ValueError(
                "share_features_extractor=False needs separate_critic=True: one trunk takes one set of features"
            )
        self.trunk: Trunk | PretrainedTrunk = self._new_trunk()
        self.critic_trunk = self._new_critic() if self.apart else self._new_trunk() if self.separate_critic else None
        self.memory_size = self.trunk.backbone.state_size
        self.state_size = self.memory_size
        if self.critic_trunk is not None:
            self.state_size += self.critic_trunk.backbone.state_size
        width = self.trunk.backbone.width
        self.mlp_extractor = MlpExtractor(width, self.net_arch, self.activation_fn, device=self.device)
        if self.apart and self.critic_trunk is not None:
            width = self.critic_trunk.backbone.width
            own = MlpExtractor(width, self.net_arch, self.activation_fn, device=self.device)
            self.mlp_extractor.value_net, self.mlp_extractor.latent_dim_vf = own.value_net, own.latent_dim_vf

    def _new_trunk(self) -> Trunk | PretrainedTrunk:
        if self._start:
            return PretrainedTrunk(*self._start)
        return Trunk(self.features_dim + 1 + self.previous_size, Backbone(**self.backbone_options))

    def _new_critic(self) -> Trunk:
        inputs = self.vf_features_extractor.features_dim + 1 + self.previous_size
        actor = {name: self.trunk_options[name] for name in ("cell", "width", "depth", "conv", "mlp", "dropout")}
        return Trunk(inputs, critic_backbone(self.critic_options, actor))

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Make the features extractor of the actor, and then that of the critic."""
        space = self.critic_space if "features_extractor" in self._modules else self.actor_space
        return self.features_extractor_class(space, **self.features_extractor_kwargs)

    @property
    def acting_size(self) -> int:
        """Return the width of the actor's state; acting does without that of a critic's own backbone."""
        return self.memory_size

    @property
    def stored_size(self) -> int:
        """Return the width of the states that `Trajectories` store."""
        return self.acting_size

    def visible(self, observation: Any) -> Any:
        """Return the part of an observation that the actor sees."""
        if not self.apart or not isinstance(self.actor_space, spaces.Dict):
            return observation
        return {key: observation[key] for key in self.actor_space.spaces}

    def _act(self, obs: Any, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        if not self.apart:
            return super()._act(obs, previous, state, reset)
        seen = self._counted_from_0(self.visible(obs))
        features = BasePolicy.extract_features(self, seen, self.pi_features_extractor).to(self._precision())
        return self.trunk.step(features, previous, state, reset)

    def scan_actor(self, segments: Segments) -> tuple[Tensor, Tensor]:
        """Map segments, whose state is one of `acting_size`, to latents of the actor (B, T, D) and the next state."""
        if not self.apart:
            latent, _, state = self._scan_segments(segments)
            return latent, state
        flat = each(self.visible(segments.observations), lambda x: x.flatten(0, 1))
        features = BasePolicy.extract_features(self, self._counted_from_0(flat), self.pi_features_extractor)
        features = features.to(self._precision()).unflatten(0, segments.reset.shape)
        previous = self._no_previous(segments.previous, segments.reset)
        return self.trunk.scan(features, previous, segments.state, segments.reset)

    def _build(self, lr_schedule: Schedule) -> None:
        start = self._start[0] if self._start else None
        if start is not None:
            check_start(start, self)
        super()._build(lr_schedule)
        if start is not None:
            self._begin_as(start)
            parameters = [p for p in self.parameters() if p.requires_grad]
            self.optimizer = self.optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self._start = ()

    def encode_previous(self, actions: Tensor, rewards: Tensor | None) -> Tensor:
        """Encode the last step as `RecurrentPolicy.encode_previous` does; a pretrained trunk takes actions in units
        of its data's
        spread."""
        encoded = super().encode_previous(actions, rewards)
        return self.trunk.standardize_actions(encoded) if isinstance(self.trunk, PretrainedTrunk) else encoded

    def _begin_as(self, start: StartsOnline) -> None:
        self.action_net = PretrainedHead(start.head)
        if self.pretrained_kl:
            log_std = self.log_std if isinstance(self.action_space, spaces.Box) else torch.zeros(0)
            self.reference = Reference(PretrainedTrunk(start), self.action_net, self.action_space, log_std)

    def _scan(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        critic = None if self.critic_trunk is None else self.critic_trunk.scan
        return self._of_both(self.trunk.scan, critic, features, previous, state, reset)

    def _step(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        critic = None if self.critic_trunk is None else self.critic_trunk.step
        return self._of_both(self.trunk.step, critic, features, previous, state, reset)

    def _of_both(
        self, actor: Run, critic: Run | None, features: Features, previous: Tensor, state: Tensor, reset: Tensor
    ) -> Outputs:
        """Return latents of actor and critic, the same if they share the trunk, and the hidden state of both.

        Of a state of `acting_size`, without that of the critic, the latents of the critic are (·, 0).
        """
        acts = state.shape[1] < self.state_size
        if critic is None or acts:
            latent, last = actor(features[0], previous, state, reset)
            return latent, latent[..., :0] if acts else latent, last
        of_actor, of_critic = state.tensor_split([self.memory_size], dim=1)
        latent_pi, last_of_actor = actor(features[0], previous, of_actor, reset)
        latent_vf, last_of_critic = critic(features[1], previous, of_critic, reset)
        return latent_pi, latent_vf, torch.cat([last_of_actor, last_of_critic], dim=1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.trunk_options}


class BackboneCnnPolicy(OnImages, BackbonePolicy):
    """`BackbonePolicy` on images."""


class BackboneMultiInputPolicy(OnParts, BackbonePolicy):
    """`BackbonePolicy` on Dict observations, whose images have a network of their own."""


def _check_known(keywords: dict[str, Any]) -> None:
    known = {
        *inspect.signature(ActorCriticPolicy.__init__).parameters,
        *inspect.signature(BackbonePolicy.__init__).parameters,
    }
    known -= {"self", "observation_space", "action_space", "lr_schedule", "keywords"}
    for name in keywords:
        if name not in known:
            raise ValueError(f'policy_kwargs: the policy has no option "{name}"; {nearest(name, known)}')
