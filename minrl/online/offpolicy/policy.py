"""Policies of recurrent SAC: an actor and its critics, each behind a trunk of their own or all behind one.

Shapes: B environments or rows, T time, F features, D width, S state size, P width of the previous action and reward,
A action width, K choices, N = B * T.
"""

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    Distribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from minrl.backbone import Backbone
from minrl.online.actions import flat_actions
from minrl.online.inputs.images import OnImages, OnParts
from minrl.online.inputs.segments import Observations, each
from minrl.online.offpolicy.networks import Critic, Heads
from minrl.online.offpolicy.replay import Rows
from minrl.online.policy import Features, Outputs, RecurrentPolicy
from minrl.online.spaces import choice_starts
from minrl.online.trunk import Trunk
from minrl.system.names import nearest

LOG_STD = (-20.0, 2.0)  # bounds, those of Stable-Baselines3's SAC


class Latents(NamedTuple):
    """Outputs of the trunks at the steps of rows that count."""

    actor: Tensor  # (B, T, D)
    critic: Tensor  # (B, T, D)
    target: Tensor  # (B, T, D) of the target critic, without gradient
    state: Tensor  # (B, S) hidden states of actor and critics after the last step


class SACPolicy(RecurrentPolicy):
    """Actor, critics and target critics of recurrent SAC, for a Box or Discrete action space.

    The critics' trunk reads observations, previous actions and rewards like the actor's; the action that they judge
    enters their heads, so that one scan serves any action (Ni et al., arXiv 2110.05038, section 4.1).

    Args:
        observation_space, action_space, lr_schedule: as for Stable-Baselines3's policies.
        cell, width, depth, conv, mlp, dropout, cell_options: of the trunks, as for `BackbonePolicy`.
        critic_cell: of the critics' trunk; the actor's by default.
        share_trunk: one trunk, which learns from the critics' loss alone.
        previous_action, previous_reward: the last action or reward as an input.
        n_critics: critics, the least of which counts.
        net_arch: layers of the heads, such as {"pi": [64], "qf": [64]}; one of the trunk's width by default.
        ent_coef: the first entropy coefficient.
        learns_ent_coef: whether it is a parameter that is learned.
        keywords: all others of `ActorCriticPolicy`, such as `features_extractor_class`.

    Raises:
        ValueError: for an unknown cell or option, sizes below 1, or another action space.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        *,
        cell: str = "mingru",
        width: int = 64,
        depth: int = 2,
        conv: int = 4,
        mlp: float = 0.0,
        dropout: float = 0.0,
        cell_options: dict[str, Any] | None = None,
        critic_cell: str | None = None,
        share_trunk: bool = False,
        previous_action: bool = True,
        previous_reward: bool = False,
        n_critics: int = 2,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        ent_coef: float = 1.0,
        learns_ent_coef: bool = True,
        **keywords: Any,
    ) -> None:
        _check_known(keywords)
        if not isinstance(action_space, spaces.Box | spaces.Discrete):
            raise ValueError(f"recurrent SAC takes Box and Discrete actions, got {action_space}")
        if share_trunk and critic_cell not in (None, cell):
            raise ValueError(f"share_trunk has one cell, {cell}: leave out critic_cell={critic_cell}")
        if n_critics < 1:
            raise ValueError(f"n_critics must be at least 1, got {n_critics}")
        layers = [width] if net_arch is None else net_arch
        self.heads_layers = dict(layers) if isinstance(layers, dict) else {"pi": layers, "qf": layers}
        backbone = {"cell": cell, "width": width, "depth": depth, "conv": conv, "mlp": mlp, "dropout": dropout}
        self.sac_options: dict[str, Any] = {
            **backbone, "cell_options": cell_options, "critic_cell": critic_cell, "share_trunk": share_trunk,
            "previous_action": previous_action, "previous_reward": previous_reward, "n_critics": n_critics,
            "net_arch": net_arch, "ent_coef": ent_coef, "learns_ent_coef": learns_ent_coef,
        }  # fmt: skip
        self._backbone_options: dict[str, Any] = {**backbone, **(cell_options or {})}
        self.previous_action, self.previous_reward = previous_action, previous_reward
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], **keywords)

    def _build(self, lr_schedule: Schedule) -> None:
        options, width = self.sac_options, self.sac_options["width"]
        self.reference = None
        self._starts = choice_starts(self.observation_space)
        space: Any = self.action_space
        self.is_discrete = isinstance(space, spaces.Discrete)
        self._squash_output = not self.is_discrete
        # Choices are one output each; real actions a mean and a log standard deviation each.
        count = int(space.n) if self.is_discrete else spaces.flatdim(space)
        kind: Any = CategoricalDistribution if self.is_discrete else SquashedDiagGaussianDistribution
        self.action_dist = kind(count)
        self.trunk = self._new_trunk(options["cell"])
        self.state_size = self.trunk.backbone.state_size
        arch: Any = {"pi": self.heads_layers.get("pi", []), "vf": []}
        self.mlp_extractor = MlpExtractor(width, arch, nn.ReLU, device=self.device)
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, count if self.is_discrete else 2 * count)
        heads = Heads(
            width + (0 if self.is_discrete else count), self.heads_layers.get("qf", []),
            count if self.is_discrete else 1, options["n_critics"],
        )  # fmt: skip
        shared: list[nn.Module] = [self.features_extractor, self.trunk] if options["share_trunk"] else []
        if shared:
            self.critic = Critic(None, None, heads)
            target = Critic(self.features_extractor, self.trunk, heads)  # the target has a trunk of its own
        else:
            trunk = self._new_trunk(options["critic_cell"] or options["cell"])
            self.critic = target = Critic(self.make_features_extractor(), trunk, heads)
        self.critic_target = deepcopy(target).requires_grad_(False)
        self.log_ent_coef = nn.Parameter(torch.tensor(options["ent_coef"]).log(), options["learns_ent_coef"])
        actor = [self.mlp_extractor, self.action_net]
        actor += [] if shared else [self.features_extractor, self.trunk]
        groups = [[p for part in parts for p in part.parameters()] for parts in (actor, [*shared, self.critic])]
        groups += [[self.log_ent_coef]] if options["learns_ent_coef"] else []
        keywords = {**self.optimizer_kwargs}
        # All parameters of a group in one pass.
        if self.optimizer_class is torch.optim.Adam and keywords.keys() <= {"eps"}:
            keywords["fused"] = True
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer([{"params": group} for group in groups], lr=lr_schedule(1), **keywords)

    def _new_trunk(self, cell: str) -> Trunk:
        options = {**self._backbone_options, "cell": cell}
        if cell != self._backbone_options["cell"]:
            own = self.sac_options["cell_options"] or {}
            options = {name: value for name, value in options.items() if name not in own}
        return Trunk(self.features_dim + 1 + self.previous_size, Backbone(**options))

    @property
    def stored_size(self) -> int:
        """Return the size of the hidden states of actor and critics together."""
        trunk = self.critic.trunk
        return self.state_size + (0 if trunk is None else trunk.backbone.state_size)

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Move the target critics towards the critics by the fraction `tau` of the way (polyak averaging)."""
        own: list[Tensor] = [*self.critic.parameters()]
        if self.critic.trunk is None:
            own = [*self.features_extractor.parameters(), *self.trunk.parameters(), *own]
        torch._foreach_lerp_([*self.critic_target.parameters()], own, tau)

    def encode_previous(self, actions: Tensor, rewards: Tensor | None) -> Tensor:
        """Encode the last step as `RecurrentPolicy.encode_previous` does, but real actions in their range [-1, 1]."""
        parts = [] if self.previous_size else [actions.new_zeros(actions.shape[0], 0)]
        if self.previous_action:
            parts.append(flat_actions(self.action_space, actions))
        if self.previous_reward:
            parts.append(actions.new_zeros(actions.shape[0], 1) if rewards is None else rewards.reshape(-1, 1))
        return torch.cat([part.to(torch.float32) for part in parts], dim=1)

    def latents(self, rows: Rows) -> Latents:
        """Scan rows; their burn-in only brings the hidden states up to date."""
        flat = self._counted_from_0(each(rows.observations, lambda x: x.flatten(0, 1)))
        inputs: Any = preprocess_obs(flat, self.observation_space, normalize_images=self.normalize_images)
        previous = self.encode_previous(rows.previous_actions.flatten(0, 1), rows.previous_rewards.flatten())
        previous = self._no_previous(previous.unflatten(0, rows.reset.shape), rows.reset)
        of_actor, of_critic = rows.state.tensor_split([self.state_size], dim=1)

        def run(extractor: Any, trunk: Any, state: Tensor) -> tuple[Tensor, Tensor]:
            features = extractor(inputs).unflatten(0, rows.reset.shape).to(self._precision())
            at = rows.burn_in
            if at:
                with torch.no_grad():
                    state = trunk.scan(features[:, :at], previous[:, :at], state, rows.reset[:, :at])[1]
            return trunk.scan(features[:, at:], previous[:, at:], state, rows.reset[:, at:])  # type: ignore[no-any-return]

        actor, last = run(self.features_extractor, self.trunk, of_actor)
        if self.critic.trunk is None:
            actor, critic, of_critic = actor.detach(), actor, of_actor
        else:
            critic, after = run(self.critic.extractor, self.critic.trunk, of_critic)
            last = torch.cat([last, after], dim=1)
        with torch.no_grad():
            target, _ = run(self.critic_target.extractor, self.critic_target.trunk, of_critic)
        return Latents(actor, critic, target, last)

    @torch.no_grad()
    def critic_state(self, obs: Observations, previous: Tensor, state: Tensor, reset: Tensor) -> Tensor:
        """Return the critics' hidden state after an observation that `state` precedes."""
        critic: Any = self.critic
        if critic.trunk is None:
            return state
        features = self.extract_features(self._counted_from_0(obs), critic.extractor)
        return critic.trunk.step(features, self._no_previous(previous, reset), state, reset)[1]  # type: ignore[no-any-return]

    def parameters_of_actions(self, latent: Tensor) -> Tensor:
        """Map latents (N, D) to logits (N, K), or to means and log standard deviations side by side (N, 2A)."""
        found: Tensor = self.action_net(self.mlp_extractor.forward_actor(latent))
        return found

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        found = self.action_net(latent_pi)
        if self.is_discrete:
            return self.action_dist.proba_distribution(found)
        mean, log_std = found.chunk(2, dim=1)
        return self.action_dist.proba_distribution(mean, log_std.clamp(*LOG_STD))

    def _scan(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        return self._of_actor(self.trunk.scan, features, previous, state, reset)

    def _step(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        return self._of_actor(self.trunk.step, features, previous, state, reset)

    def _of_actor(self, run: Callable[..., Any], features: Features, *others: Tensor) -> Outputs:
        latent, last = run(features[0], *others)
        return latent, latent, last

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.sac_options}


class SACCnnPolicy(OnImages, SACPolicy):
    """`SACPolicy` on images."""


class SACMultiInputPolicy(OnParts, SACPolicy):
    """`SACPolicy` on Dict observations, whose images have a network of their own."""


POLICIES = {"MlpPolicy": SACPolicy, "CnnPolicy": SACCnnPolicy, "MultiInputPolicy": SACMultiInputPolicy}


def _check_known(keywords: dict[str, Any]) -> None:
    known = {
        "activation_fn", "features_extractor_class", "features_extractor_kwargs", "normalize_images", "optimizer_class",
        "optimizer_kwargs", *inspect.signature(SACPolicy.__init__).parameters,
    }  # fmt: skip
    # Those that a saved policy states.
    fixed = {"use_sde", "log_std_init", "squash_output", "full_std", "use_expln", "ortho_init"}
    for name in keywords:
        if name not in known | fixed:
            raise ValueError(f'policy_kwargs: the policy has no option "{name}"; {nearest(name, known)}')
