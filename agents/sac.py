"""Recurrent SAC: a Stable-Baselines3 off-policy algorithm that learns from whole rows of its replay by one scan.

Constructor, `learn`, `predict`, `save`, `load` and the replay buffer's methods follow Stable-Baselines3's SAC; real
actions as there, choices as in Christodoulou (arXiv 1910.07207).

Shapes: n_envs environments, S state size.
"""

import time
import warnings
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, Schedule
from stable_baselines3.common.utils import obs_as_tensor

from minrl.online.checks import check_observations, check_rewards
from minrl.online.likelihood import sampled
from minrl.online.offpolicy.entropy import first_ent_coef, steered_entropy
from minrl.online.offpolicy.losses import losses
from minrl.online.offpolicy.policy import POLICIES, SACCnnPolicy, SACMultiInputPolicy, SACPolicy
from minrl.online.offpolicy.replay import RowState, SequenceBuffer, check_rows
from minrl.online.offpolicy.replay_file import load_replay, save_replay
from minrl.online.rollouts.carried import CarriesState
from minrl.system.messages import one_line

MlpPolicy, CnnPolicy, MultiInputPolicy = SACPolicy, SACCnnPolicy, SACMultiInputPolicy

Self = TypeVar("Self", bound="RecurrentSAC")


class RecurrentSAC(CarriesState, OffPolicyAlgorithm):
    """Soft actor-critic (Haarnoja et al., arXiv 1812.05905) with a recurrent actor and recurrent critics.

    All arguments have the meaning of Stable-Baselines3's SAC, except:

    Args:
        buffer_size: observations of all environments together.
        batch_size: steps of a minibatch, which is made of rows of `segment_length` steps.
        n_steps: most rewards in a target, which then bootstraps.
        target_entropy: in nats; "auto" is minus the number of real actions, or `CHOICE_ENTROPY` log K for K choices.
        segment_length: steps of a row, over which gradients flow through time.
        row_state: hidden state at the start of a row: "stored" while acting, refreshed by a scan over the `burn_in`
            steps before the row, "recomputed" from the start of the row's episode with the current weights, or "zero".
        burn_in: steps, for `row_state="burn_in"`.
        max_grad_norm: largest norm of the gradients of the actor and of the critics; None for no limit.

    Raises:
        ValueError: for settings that do not fit together, or an action space that is no bounded Box and no Discrete.
    """

    policy: SACPolicy
    replay_buffer: SequenceBuffer
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**POLICIES}

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1000,
        batch_size: int = 512,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        segment_length: int = 64,
        row_state: RowState = "stored",
        burn_in: int = 0,
        max_grad_norm: float | None = None,
    ) -> None:
        self.segment_length, self.row_state, self.burn_in = segment_length, row_state, burn_in
        self.ent_coef, self.target_entropy = ent_coef, target_entropy
        self.target_update_interval, self.max_grad_norm = target_update_interval, max_grad_norm
        super().__init__(
            policy, env, learning_rate, buffer_size, learning_starts, batch_size, tau, gamma, train_freq,
            gradient_steps, action_noise, replay_buffer_class=SequenceBuffer, policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size, tensorboard_log=tensorboard_log, verbose=verbose, device=device,
            support_multi_env=True, seed=seed, sde_support=False,
        )  # fmt: skip
        self.n_steps = n_steps
        # (n_envs, S) hidden states before the next step, and (n_envs, P) the previous action and reward.
        self._last_state = self._last_critic_state = self._last_previous = torch.zeros(0, 0)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._check_settings()
        first, learns = first_ent_coef(self.ent_coef)
        kept = self.policy_kwargs
        self.policy_kwargs = {**kept, "ent_coef": first, "learns_ent_coef": learns}
        self.replay_buffer_kwargs = {name: getattr(self, name) for name in ("segment_length", "row_state", "burn_in")}
        with warnings.catch_warnings():
            # `n_steps` belongs to the targets, not to the buffer.
            warnings.filterwarnings("ignore", "`n_steps=")
            super()._setup_model()
        self.policy_kwargs = kept
        self._target_entropy = steered_entropy(self.action_space, self.target_entropy)
        self.forget()

    def _check_settings(self) -> None:
        check_rows(self.row_state, self.burn_in, self.segment_length, self.buffer_size // self.n_envs)
        if self.n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {self.n_steps}")
        space = self.action_space
        is_finite = not isinstance(space, spaces.Box) or bool(np.isfinite([space.low, space.high]).all())
        if not isinstance(space, spaces.Box | spaces.Discrete) or not is_finite:
            raise ValueError(f"RecurrentSAC takes actions of a bounded Box or a Discrete, got {one_line(space)}")

    def forget(self) -> None:
        """Reset the hidden states, as after a reset of all environments."""
        policy = self.policy
        self._last_state = policy.initial_state(self.n_envs)
        self._last_critic_state = self._last_state.new_zeros(self.n_envs, policy.stored_size - policy.state_size)
        self._last_previous = self._last_state.new_zeros(self.n_envs, policy.previous_size)
        self.replay_buffer.begin()
        if self._vec_normalize_env is not None and self._last_obs is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Any | None = None,
        deterministic: bool = False,
        reward: Any | None = None,
    ) -> tuple[npt.NDArray[Any], tuple[Any, ...] | None]:
        """Predict as `minrl.online.policy.RecurrentPolicy.predict` does."""
        return self.policy.predict(observation, state, episode_start, deterministic, reward)

    def collect_rollouts(self, *arguments: Any, **keywords: Any) -> RolloutReturn:
        """Act as in Stable-Baselines3.

        Neither `num_timesteps` nor the steps returned count steps in which an environment only resets
        (`minrl.online.vector.VectorEnvironment`).
        """
        earlier = self.num_timesteps
        done = super().collect_rollouts(*arguments, **keywords)
        return done._replace(episode_timesteps=self.num_timesteps - earlier)

    def _resets_next(self) -> npt.NDArray[np.bool_] | None:
        """Return the environments (N,) that only reset in the next step; None where there are no such steps."""
        assert self.env is not None, "You must set the environment before acting"
        return getattr(self.env.unwrapped, "resets_next", None)

    @torch.no_grad()
    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return actions for the environments and for the buffer, and advance the hidden states."""
        check_observations(self._last_obs, self.num_timesteps)
        is_random = self.num_timesteps < learning_starts
        resets = self._resets_next()
        if resets is not None:  # Stable-Baselines3 will count a step of every environment
            self.num_timesteps -= int(resets.sum())
        policy, space = self.policy, self.action_space
        obs = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
        reset = torch.as_tensor(self._last_episode_starts, device=self.device)
        previous = policy._no_previous(self._last_previous, reset)
        # What enters the step; the scan begins from zeros where an episode does.
        self._entering = torch.cat([self._last_state, self._last_critic_state], dim=1)
        latent, _, self._last_state = policy._step(policy._features(obs), previous, self._last_state, reset)
        if self.replay_buffer.stores_states:
            self._last_critic_state = policy.critic_state(obs, previous, self._last_critic_state, reset)
        if is_random:
            drawn = np.array([space.sample() for _ in range(n_envs)])
            if policy.is_discrete:
                return drawn, drawn - getattr(space, "start", 0)
            stored = np.asarray(policy.scale_action(drawn), np.float32)
        else:
            stored = sampled(policy, policy.mlp_extractor.forward_actor(latent), False)[0].cpu().numpy()
            if policy.is_discrete:
                return policy.to_environment(stored), stored
            stored = stored.reshape(n_envs, *space.shape)  # type: ignore[misc]
        if action_noise is not None:
            stored = np.clip(stored + action_noise(), -1, 1).astype(np.float32)
        return policy.to_environment(stored), stored

    def _store_transition(
        self, replay_buffer: ReplayBuffer, buffer_action: npt.NDArray[Any], new_obs: Any, reward: npt.NDArray[Any],
        dones: npt.NDArray[Any], infos: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        check_rewards(reward, self.num_timesteps)
        self.replay_buffer.entering = self._entering.cpu().numpy()  # gives the size of states even where none is stored
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._last_episode_starts = dones.copy()
        for row, info in enumerate(infos):
            if info.get("filler", False):  # whose episode Stable-Baselines3 counted in the step before
                dones[row] = False
        if self.policy.previous_size:
            actions, rewards = (torch.as_tensor(x, device=self.device) for x in (buffer_action, reward))
            self._last_previous = self.policy.encode_previous(actions, rewards)

    def train(self, gradient_steps: int, batch_size: int = 512) -> None:
        """Take `gradient_steps` steps, each by one scan of every trunk over a minibatch of rows."""
        begin, policy, optimizer = time.perf_counter(), self.policy, self.policy.optimizer
        if int(self.replay_buffer.sizes.max()) < 2:
            return
        policy.set_training_mode(True)
        self._update_learning_rate(optimizer)
        sums = np.zeros(5)
        for _ in range(gradient_steps):
            rows = self.replay_buffer.sample(batch_size, self._vec_normalize_env)
            found = losses(policy, rows, gamma=self.gamma, n_steps=self.n_steps, target_entropy=self._target_entropy)
            optimizer.zero_grad()
            found.total().backward()
            if self.max_grad_norm is not None:
                for group in optimizer.param_groups[:2]:
                    torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
            optimizer.step()
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                policy.update_target(self.tau)
            sums += torch.stack([*(x.detach() for x in found)]).cpu().numpy()
        means = dict(zip(found._fields, sums / gradient_steps, strict=True))
        record = self.logger.record
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/ent_coef", float(policy.log_ent_coef.detach().exp()))
        record("train/actor_loss", means["actor"])
        record("train/critic_loss", means["critic"])
        record("train/loss", means["actor"] + means["critic"])
        record("train/entropy", means["entropy"])
        record("train/value", means["value"])
        record("train/learning_rate", optimizer.param_groups[0]["lr"])
        record("time/update_ms", round(1000 * (time.perf_counter() - begin) / gradient_steps, 2))

    def save_replay_buffer(self, path: Any) -> None:
        """Save the replay buffer as `minrl.online.offpolicy.replay_file.save_replay` does."""
        save_replay(self.replay_buffer, path)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Load a replay buffer as `minrl.online.offpolicy.replay_file.load_replay` does; runs no code of the file."""
        load_replay(self.replay_buffer, path, self.policy.stored_size)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_entering"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], ["_last_state", "_last_critic_state", "_last_previous"]

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "RecurrentSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn as in Stable-Baselines3; the hidden state continues from the last call where the environment does."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
