"""Distillation: a recurrent student learns from the labels of a teacher, from whole segments by one scan.

The student acts, the teacher labels every step (DAgger: Ross, Gordon and Bagnell 2011, arXiv 1011.0686). A
Stable-Baselines3 algorithm with the policies, rollouts and interface of `RecurrentPPO`.

Shapes: n_envs environments, S state size, W action width, K parameters of a distribution.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor

from minrl.agent import Actor
from minrl.data.spaces import AnySpace
from minrl.online.backbone_policy import BackbonePolicy
from minrl.online.distill.losses import (
    DistillLoss,
    check_loss,
    chosen_loss,
    imitation,
    parameters_of,
    reinforcement,
)
from minrl.online.distill.teacher import Teacher, teacher_space
from minrl.online.distill.trajectories import Trajectories
from minrl.online.inputs.segments import segment_cuts
from minrl.online.likelihood import distribution_of
from minrl.runs import checkpoint
from minrl.zoo import find_statistics, is_policy_file, load_zip

from .ppo import RecurrentPPO

Self = TypeVar("Self", bound="Distillation")
_HIDDEN = (
    "an environment shows a teacher more than the student by a Dict observation, of which --teacher-keys names the "
    "teacher's part (of minrl's tasks without velocities: --env-kwargs state=true --teacher-keys state)"
)


def open_teacher(
    source: str | Path, observation_space: AnySpace, action_space: AnySpace, *,
    keys: Sequence[str] = (), vecnormalize: str | None = None,
) -> Actor:  # fmt: skip
    """Open a teacher: a run's folder, a checkpoint, or a .zip of Stable-Baselines3 or sb3-contrib, whose code stays.

    Args:
        source: path.
        observation_space, action_space: of the environment in which it is to act.
        keys: of a Dict observation that it sees; a single one is the whole observation.
        vecnormalize: statistics for a .zip, as for `minrl.zoo.find_statistics`.

    Raises:
        ValueError: if there is none, or its spaces are others.
    """
    path, seen = Path(source).expanduser(), teacher_space(observation_space, keys)
    if not path.exists():
        raise ValueError(f"teacher {source}: no such run, checkpoint or .zip")
    try:
        if is_policy_file(path):
            spaces = SimpleNamespace(observation_space=seen, action_space=action_space)
            return load_zip(path, spaces, vecnormalize=find_statistics(path, vecnormalize))
        if vecnormalize is not None:
            raise ValueError("vecnormalize is for a policy's .zip; a run keeps its own statistics")
        actor = checkpoint.load(path)
        actor.task.check_fits(seen, action_space, "the student's environment")
    except ValueError as error:
        hint = "" if keys else f"; {_HIDDEN}"
        raise ValueError(f"teacher {source}: {str(error).removeprefix(f'{path}: ')}{hint}") from error
    return actor


class Distillation(RecurrentPPO):
    """A student that learns to act as a teacher does, with a memory in place of what only the teacher sees.

    All arguments have the meaning of `RecurrentPPO`, except:

    Args:
        teacher: an actor, or the path of a run, a checkpoint or a .zip. It is not saved with the model: to learn on,
            give it to `load` again.
        teacher_keys: keys of a Dict observation that the teacher sees; a single one is its whole observation. Those
            that the student must not see are `critic_keys` of the policy.
        loss: "kl" from the teacher's distribution, "likelihood" of its likeliest action (cross-entropy of choices),
            "mse" of real actions, or "auto": mse, and for choices kl if the teacher has a distribution.
        beta: share of steps in which the teacher acts, at the start.
        beta_steps: environment steps over which it falls linearly to zero.
        buffer_size: labelled steps that are kept; every minibatch is drawn from them.
        n_epochs: passes over as many steps as a rollout has.
        ppo_coef: weight of PPO's loss on the student's own steps; with it the student samples its actions, without
            it takes the likeliest.
        state_refresh: "rollout" trains from hidden states stored while acting; "epoch" computes those of all kept
            segments with the current weights before each update.

    Raises:
        ValueError: for settings that do not fit together.
    """

    policy: BackbonePolicy
    replay_buffer: Trajectories
    acts_alone: ClassVar[bool] = False

    def __init__(
        self, policy: str | type[BackbonePolicy], env: GymEnv | str, teacher: Actor | str | Path | None = None,
        learning_rate: float | Schedule = 3e-3, n_steps: int = 128, batch_size: int | None = 256, n_epochs: int = 20,
        *, teacher_keys: Sequence[str] = (), loss: DistillLoss = "auto", beta: float = 1.0, beta_steps: int = 5_000,
        buffer_size: int = 100_000, ppo_coef: float = 0.0,
        state_refresh: Literal["rollout", "epoch"] = "epoch", _init_setup_model: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        self.teacher, self.teacher_keys, self.loss = teacher, tuple(teacher_keys), loss
        self.beta, self.beta_steps, self.buffer_size, self.ppo_coef = beta, beta_steps, buffer_size, ppo_coef
        super().__init__(
            policy, env, learning_rate, n_steps, batch_size, n_epochs, _init_setup_model=_init_setup_model,
            state_refresh=state_refresh, **keywords,
        )  # fmt: skip

    def _setup_model(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], got {self.beta}")
        if self.beta_steps < 0 or self.buffer_size < 1 or self.ppo_coef < 0:
            raise ValueError("beta_steps and ppo_coef must not be negative, buffer_size at least 1")
        if self.target_kl is not None:
            raise ValueError("target_kl stops updates of PPO alone: leave it out")
        check_loss(self.loss, self.action_space)
        self.guide: Teacher | None = None
        if self.teacher is not None:
            actor = self.teacher
            if not isinstance(actor, Actor):
                actor = open_teacher(actor, self.observation_space, self.action_space, keys=self.teacher_keys)
            self.guide = Teacher(actor, self.observation_space, self.action_space, self.teacher_keys)
        super()._setup_model()
        if not isinstance(self.policy, BackbonePolicy) or self.policy.reference is not None:
            raise ValueError("the student is a policy with a backbone, without pretrained_kl")
        cuts = segment_cuts(self.n_steps, self.rollout_buffer.segment_length)
        if self.n_steps % (len(cuts) - 1):
            raise ValueError(
                f"segments must have equal lengths: n_steps={self.n_steps} is not a multiple of {len(cuts) - 1}, the "
                "segments of a rollout; set segment_length to a divisor of n_steps"
            )
        self.replay_buffer = Trajectories(self.buffer_size, self.n_envs, cuts[1])
        if self.guide is not None:
            alike = not self.use_sde and self.guide.parameters() == parameters_of(self.policy)
            self.taught_by = chosen_loss(self.loss, self.action_space, alike)

    def forget(self) -> None:
        """Reset the hidden states, as after a reset of all environments."""
        super().forget()
        if self.guide is not None:
            self.guide.begin(self.n_envs)

    def share(self) -> float:
        """Return the share of steps in which the teacher acts now."""
        return self.beta * max(0.0, 1.0 - self.num_timesteps / self.beta_steps) if self.beta_steps else 0.0

    @torch.no_grad()
    def _act(self, compiled: Any, masks: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        assert self.guide is not None
        policy, size, state = self.policy, self.policy.acting_size, self._last_state
        obs = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
        reset = torch.as_tensor(self._last_episode_starts, device=self.device)
        previous = policy._no_previous(self._last_previous, reset)
        if self.ppo_coef:
            latent, of_critic, state = policy._step(policy._features(obs), previous, state, reset)
            values = policy.value_net(policy.mlp_extractor.forward_critic(of_critic))
        else:  # the critic learns nothing
            latent, own = policy._act(obs, previous, state[:, :size], reset)
            state, values = torch.cat([own, state[:, size:]], dim=1), own.new_zeros(self.n_envs, 1)
        distribution = distribution_of(policy, policy.mlp_extractor.forward_actor(latent), masks)
        chosen = distribution.get_actions(deterministic=not self.ppo_coef)
        labels, parameters = self._labels(masks)
        share = self.share()
        takes = torch.zeros(self.n_envs, dtype=torch.bool)
        if share > 0:
            takes = torch.from_numpy(np.random.random(self.n_envs) < share)  # noqa: NPY002, the generator SB3 seeds
        takes = takes.to(self.device)
        own = chosen.reshape(self.n_envs, -1)
        taken = torch.where(takes.unsqueeze(1), labels.to(own.dtype), own).reshape(chosen.shape)
        self._keep(torch.cat([labels, parameters, (~takes).unsqueeze(1).float()], dim=1))
        log_probs = distribution.log_prob(taken)
        return taken.reshape(-1, *self.action_space.shape), values, log_probs, state  # type: ignore[misc]

    def _labels(self, masks: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's actions (n_envs, W) and parameters (n_envs, K), or none where the loss reads none."""
        assert self.guide is not None
        seen: Any = self._last_obs
        rewards = self._last_rewards if len(self._last_rewards) == self.n_envs else np.zeros(self.n_envs)
        if self._vec_normalize_env is not None:
            seen = self._vec_normalize_env.get_original_obs()
            if len(original := self._vec_normalize_env.get_original_reward()) == self.n_envs:
                rewards = original
        labels, parameters = self.guide.label(seen, rewards, self._last_episode_starts, masks)
        if self.taught_by != "kl" or parameters is None:
            parameters = labels[:, :0]
        return labels.to(self.device), parameters.to(self.device, torch.float32)

    def _keep(self, columns: torch.Tensor) -> None:
        """Keep labels, parameters and whether the student acted beside the step that follows in the rollout."""
        buffer = self.rollout_buffer
        if buffer.reference is None:
            buffer.reference = columns.new_zeros(buffer.buffer_size, *columns.shape)
        buffer.reference[buffer.pos] = columns

    def train(self) -> None:
        """Update the student from drawn segments, and with `ppo_coef` from the rollout too."""
        begin, policy, buffer, kept = time.perf_counter(), self.policy, self.rollout_buffer, self.replay_buffer
        kept.add(buffer, policy)
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        if self.state_refresh == "epoch":
            kept.refresh(policy)
        length, steps = kept.length, self.n_steps * self.n_envs
        rows = max(1, (self.batch_size or steps) // length)
        progress = self._current_progress_remaining
        settings: dict[str, Any] = {
            "clip": self.clip_range(progress),  # type: ignore[operator]
            "clip_value": None if self.clip_range_vf is None else self.clip_range_vf(progress),  # type: ignore[operator]
            "ent_coef": self.ent_coef, "vf_coef": self.vf_coef,
            "normalize": self.normalize_advantage,
        }  # fmt: skip
        policy.first_ratio_dev, figures = 0.0, []
        for _ in range(self.n_epochs):
            batches: Any = buffer.get(self.batch_size) if self.ppo_coef else range(-(-steps // (rows * length)))
            for batch in batches:
                loss, error = imitation(policy, *self._drawn(rows), self.taught_by)
                parts = [loss.detach(), error, torch.zeros(())]
                if self.ppo_coef:
                    own = batch.observations.of_valid(batch.observations.reference)[:, -1]
                    term = reinforcement(policy, batch, own, **settings)
                    loss, parts[2] = loss + self.ppo_coef * term, term.detach()
                policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), self.max_grad_norm)
                policy.optimizer.step()
                figures.append([float(x) for x in (loss.detach(), *parts)])
            self._n_updates += 1
        self._record(np.mean(figures, axis=0), begin)

    def _drawn(self, rows: int) -> tuple[Any, torch.Tensor]:
        segments, labels = self.replay_buffer.draw(rows)
        return segments, labels[:, :-1]

    def _record(self, means: Any, begin: float) -> None:
        record, is_real = self.logger.record, self.taught_by == "mse" or hasattr(self.policy, "log_std")
        record("train/loss", means[0])
        record("train/imitation_loss", means[1])
        record("train/action_error" if is_real else "train/disagreement", means[2])
        if self.ppo_coef:
            record("train/ppo_loss", means[3])
            record("train/first_ratio_dev", self.policy.first_ratio_dev)
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/beta", self.share())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("time/update_fps", round(self.n_steps * self.n_envs / (time.perf_counter() - begin)))

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *others: Any
    ) -> tuple[int, BaseCallback]:
        if self.guide is None:
            raise ValueError("no teacher: Distillation(policy, env, teacher), or load(path, env, teacher=...)")
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *others)

    def _announce(self, masked: bool) -> None:
        pass  # the compiled update is PPO's

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "teacher", "guide", "replay_buffer"]

    def learn(
        self: Self, total_timesteps: int, callback: MaybeCallback = None, log_interval: int = 1,
        tb_log_name: str = "Distillation", *arguments: Any, **keywords: Any,
    ) -> Self:  # fmt: skip
        """Learn as `RecurrentPPO.learn` does."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, *arguments, **keywords)
