"""Recurrent PPO: a Stable-Baselines3 algorithm that learns from whole rollout segments by one scan.

Constructor, `learn`, `predict`, `save` and `load` follow sb3-contrib's RecurrentPPO
(https://github.com/Stable-Baselines-Team/stable-baselines3-contrib), whose policy names are supported too.

Shapes: n_envs environments, T steps of a rollout, S state size.
"""

import time
import warnings
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from minrl.online.backbone_policy import BackboneCnnPolicy, BackboneMultiInputPolicy, BackbonePolicy
from minrl.online.bootstrap import bootstrap, complete
from minrl.online.checks import check_observations, check_rewards
from minrl.online.compiled import act, rollout, update
from minrl.online.inputs.masks import Masking, current_masks
from minrl.online.inputs.segments import check_segments
from minrl.online.lstm_policy import LstmCnnPolicy, LstmMultiInputPolicy, LstmPolicy
from minrl.online.policy import RecurrentPolicy
from minrl.online.policy_classes import POLICIES, contrib_objects
from minrl.online.pretrained import update as pretrained_update
from minrl.online.pretrained.reference import check_normalization, weigh_reference
from minrl.online.rollout import SegmentBuffer
from minrl.online.rollouts.carried import CarriesState

MlpPolicy, CnnPolicy, MultiInputPolicy = BackbonePolicy, BackboneCnnPolicy, BackboneMultiInputPolicy
MlpLstmPolicy, CnnLstmPolicy, MultiInputLstmPolicy = LstmPolicy, LstmCnnPolicy, LstmMultiInputPolicy

Self = TypeVar("Self", bound="RecurrentPPO")


class RecurrentPPO(CarriesState, PPO):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347) with a recurrent policy.

    All arguments have the meaning of sb3-contrib's RecurrentPPO and Stable-Baselines3's PPO, except:

    Args:
        batch_size: steps of a minibatch, which is made of whole segments; `None` is the whole rollout.
        segment_length: most steps of a segment, over which gradients flow through time; by default those of a
            minibatch. ValueError for a longer one.
        state_refresh: "rollout" trains from the hidden state stored while acting; "epoch" computes it with the current
            weights, by one scan before each epoch but the first.
    """

    policy: RecurrentPolicy
    rollout_buffer: SegmentBuffer
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    acts_alone: ClassVar[bool] = True  # whole rollouts may be one call

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int | None = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        segment_length: int | None = None,
        state_refresh: Literal["rollout", "epoch"] = "rollout",
    ) -> None:
        if state_refresh not in ("rollout", "epoch"):
            raise ValueError(f'state_refresh must be "rollout" or "epoch", got {state_refresh!r}')
        check_segments(n_steps, segment_length, batch_size)
        self.segment_length, self.state_refresh = segment_length, state_refresh
        with warnings.catch_warnings():
            # Minibatches are whole segments, evenly distributed.
            warnings.filterwarnings("ignore", "You have specified a mini-batch size")
            super().__init__(
                policy, env, learning_rate, n_steps, max(2, n_steps) if batch_size is None else batch_size, n_epochs,
                gamma, gae_lambda, clip_range, clip_range_vf, normalize_advantage, ent_coef, vf_coef, max_grad_norm,
                use_sde, sde_sample_freq, target_kl=target_kl, stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log, policy_kwargs=policy_kwargs, verbose=verbose, seed=seed,
                device=device, _init_setup_model=False,
            )  # fmt: skip
        self.batch_size = batch_size  # type: ignore[assignment]
        # (n_envs, S) hidden state before the next step, and (n_envs, P) the previous action and reward.
        self._last_state = self._last_previous = self._last_reference_state = torch.zeros(0, 0)
        self._last_rewards = np.zeros(0)  # of the last step
        self.masking = Masking()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # Again for a model that is loaded with other settings than it was saved with.
        check_segments(self.n_steps, self.segment_length, self.batch_size)
        length = self.segment_length or min(self.n_steps, self.batch_size or self.n_steps)
        self.rollout_buffer_class = SegmentBuffer
        self.rollout_buffer_kwargs = {"segment_length": length}
        super()._setup_model()
        if self.state_refresh == "epoch":
            buffer = self.rollout_buffer
            buffer.refresh = lambda: self.policy.states_at(buffer.whole(), buffer.cuts)
        if not isinstance(self.policy, RecurrentPolicy):
            raise ValueError(
                f"Policy must subclass minrl.online.policy.RecurrentPolicy, got {type(self.policy).__name__}; load a "
                'model of another library with custom_objects={"policy_class": ...} and a policy of minrl.agents.ppo'
            )
        if self.policy_kwargs.get("pretrained") is not None:
            check_normalization(self._vec_normalize_env)
            # A saved model does not need the folder of the run.
            self.policy_kwargs = {**self.policy_kwargs, "pretrained": self.policy.pretrained}
        self.forget()

    def forget(self) -> None:
        """Reset the hidden state, as after a reset of all environments."""
        self._last_state = self.policy.initial_state(self.n_envs)
        self._last_previous = self._last_state.new_zeros(self.n_envs, self.policy.previous_size)
        reference = self.policy.reference
        size = 0 if reference is None else reference.trunk.backbone.state_size
        self._last_reference_state = self._last_state.new_zeros(self.n_envs, size)

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Any | None = None,
        deterministic: bool = False,
        reward: Any | None = None,
        action_masks: Any | None = None,
    ) -> tuple[npt.NDArray[Any], tuple[Any, ...] | None]:
        """Predict as `minrl.online.policy.RecurrentPolicy.predict` does; see `minrl.online.inputs.masks.Masking`."""
        state = self.masking.carried_state(state, episode_start, action_masks)
        found = self.policy.predict(observation, state, episode_start, deterministic, reward, action_masks)
        self.masking.keep_state(found[1], episode_start, action_masks)
        return found

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Act for `n_rollout_steps` steps in each environment; return False if a callback stopped it.

        `num_timesteps` leaves out steps in which an environment only resets (`minrl.online.vector.VectorEnvironment`).

        Raises:
            ValueError: for a reward or an observation that is not finite.
        """
        assert self._last_obs is not None, "No previous observation was provided"
        assert isinstance(rollout_buffer, SegmentBuffer), f"{rollout_buffer} doesn't support recurrent policy"
        begin, earlier = time.perf_counter(), self.num_timesteps
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        masking = self.masking.applies(env)
        at_once = not masking and self.acts_alone and rollout.collect_at_once(self, env, callback, rollout_buffer)
        has_previous, source, compiled = self.policy.previous_size > 0, env.unwrapped, act.compiled_act(self.policy)
        for step in range(0 if at_once else n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and step % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            check_observations(self._last_obs, self.num_timesteps)
            entering, last_previous = self._last_state, self._last_previous
            masks = current_masks(env, self.action_space, self.num_timesteps, self.device) if masking else None
            chosen, values, log_probs, state = self._act(compiled, masks)
            actions = chosen.cpu().numpy()
            clipped_actions = self.policy.to_environment(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            filler = getattr(source, "filler", None)
            self.num_timesteps += env.num_envs - (0 if filler is None else int(filler.sum()))
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            check_rewards(rewards, self.num_timesteps)
            self._last_rewards = rewards.copy()
            previous = last_previous
            if has_previous:
                previous = self.policy.encode_previous(chosen, torch.as_tensor(rewards, device=self.device))
            if dones.any():
                bootstrap(rewards, self.gamma, infos, self.policy, state, previous)
            rollout_buffer.add_step(
                self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs,  # type: ignore[arg-type]
                state=entering, previous=last_previous, filler=filler, masks=masks,
            )  # fmt: skip
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
            self._last_state, self._last_previous = state, previous
        complete(self, rollout_buffer, self._last_obs, self._last_episode_starts)  # type: ignore[arg-type]
        callback.update_locals(locals())
        callback.on_rollout_end()
        self.logger.record("time/rollout_fps", round((self.num_timesteps - earlier) / (time.perf_counter() - begin)))
        return True

    def _act(self, compiled: Any, masks: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Return actions for the last observations, their values and log-likelihoods, and the next hidden state."""
        last = self._last_obs, self._last_state, self._last_episode_starts, self._last_previous
        return act.step(self.policy, *last, compiled, masks)

    def train(self) -> None:
        """Update the policy from the rollout, as `PPO.train` does."""
        begin = time.perf_counter()
        if self.policy.reference is not None:
            weigh_reference(self.policy, self._current_progress_remaining)
        if self.policy.reference is not None and self.policy.reference_weight > 0:
            pretrained_update.train(self)
        elif not update.train(self):
            super().train()
        self.logger.record("train/first_ratio_dev", self.policy.first_ratio_dev)
        seconds = time.perf_counter() - begin
        fillers = int(self.rollout_buffer.fillers.sum())
        if fillers:  # Stable-Baselines3 counts all rows as steps
            self.logger.record("train/explained_variance", self.rollout_buffer.explained_variance())
        self.logger.record("time/update_fps", round((self.n_steps * self.n_envs - fillers) / seconds))

    @classmethod
    def load(
        cls: type[Self], path: Any, env: GymEnv | None = None, device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None, *arguments: Any, **keywords: Any,
    ) -> Self:  # fmt: skip
        """Load as Stable-Baselines3 does; a model of sb3-contrib's RecurrentPPO gets our equal policy."""
        return super().load(path, env, device, contrib_objects(path) | (custom_objects or {}), *arguments, **keywords)

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *others: Any
    ) -> tuple[int, BaseCallback]:
        ready = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *others)
        self._announce(self.masking.applies(ready[1].training_env))
        return ready

    def _announce(self, masked: bool) -> None:
        update.announce(self, masked=masked)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may end after the last step, where a schedule would give a negative learning rate.
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "masking", "_last_rewards"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, tensors = super()._get_torch_save_params()
        return modules, [*tensors, "_last_state", "_last_previous", "_last_reference_state"]

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool | None = None,
    ) -> Self:
        """Learn as in Stable-Baselines3; the hidden state continues from the last call where the environment does.

        Args:
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar: as there.
            use_masking: use `action_masks()` of the environments; by default where they have it.
        """
        self.masking.asked = use_masking
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
