"""Partially observable environments: registered Gymnasium ids, and wrappers that hide, disturb or add inputs.

Importing this module registers them: `gymnasium.make("minrl.envs:minrl/RepeatFirst-v0")`. `minrl` itself finds them
without the module's name, as it does those of every package with an entry point in the group `minrl.environments`.

| id                                     | observation                                        | vectorised |
|----------------------------------------|----------------------------------------------------|------------|
| `minrl/CartPoleNoVel-v1`               | cart position, pole angle                          | yes        |
| `minrl/PendulumNoVel-v1`               | cosine and sine of the angle                       | yes        |
| `minrl/MountainCarContinuousNoVel-v0`  | position                                           | yes        |
| `minrl/AcrobotNoVel-v1`                | cosine and sine of both angles                     | yes        |
| `minrl/LunarLanderNoVel-v3`            | position, angle, contact of the legs (needs Box2D) | no         |
| `minrl/LunarLanderContinuousNoVel-v3`  | the same, with continuous actions                  | no         |
| `minrl/Hopper-P-v5` and other robots   | positions and angles (needs MuJoCo)                | no         |
| `minrl/Hopper-V-v5` and other robots   | velocities (needs MuJoCo)                          | no         |
| `minrl/RepeatFirst-v0`                 | a card; name the first one                         | yes        |
| `minrl/RepeatPrevious-v0`              | a card; name the k-th last one (`k=4`)             | yes        |
| `minrl/RepeatPrevious16-v0`, `…32`, `…64` | the same with k = 16, 32 and 64                 | yes        |
| `minrl/TMaze-v0`                       | a cue, a corridor (`length=10`, `active=False`)    | yes        |
| `minrl/TMaze1000-v0`                   | the same with a corridor of 1000 steps             | yes        |
| `minrl/DelayedCue-v0`                  | a cue, blanks (`delay=20`), the go signal          | yes        |
| `minrl/MaskedRecall-v0`                | a symbol; name the one two steps ago, four of 20 choices are allowed | no |
| `minrl/Parity-v0`                      | bits; say whether the ones are odd (`length=40`)   | yes        |

The robots are Ant, HalfCheetah, Hopper, Humanoid, InvertedDoublePendulum, InvertedPendulum, Swimmer and Walker2d,
and Reacher by its positions only. `zeroed=True` multiplies hidden entries by zero and keeps the space as it is. With
`state=True` the first six give a Dict of this "observation" and the whole "state", for a critic that sees more.
The vectorised ones run as compiled code: `gymnasium.make_vec(id, num_envs, autoreset_mode="SameStep")`. Time limits
and reward thresholds are those of the fully observed task.

| wrapper                                   | effect on one environment                                            |
|-------------------------------------------|----------------------------------------------------------------------|
| `MaskObservation(env, keep)`              | shows only the entries `keep`: hides velocities, positions, others   |
| `NoisyObservation(env, scale=0.1)`        | adds Gaussian noise                                                  |
| `FlickeringObservation(env, probability=0.5)` | shows zeros instead, with that probability                       |
| `PreviousAction(env)`, `PreviousReward(env)` | append the last action, the last reward                           |

Several environments take them one by one: `gymnasium.make_vec(id, num_envs, vectorization_mode="sync",
wrappers=[PreviousAction, PreviousReward])`, or `wrapper_class` of Stable-Baselines3's `make_vec_env`. The command line
takes them in an id of your own: a module `noisy` with

    gymnasium.register(
        "NoisyPendulum-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=200,
        additional_wrappers=(NoisyObservation.wrapper_spec(scale=0.1),),
    )

is what `minrl train ppo --env noisy:NoisyPendulum-v0` imports.
"""

from typing import Any

import gymnasium

from .disturbed import FlickeringObservation, NoisyObservation
from .masking import MaskObservation
from .mujoco import PARTS, POSITIONS_ONLY
from .previous import PreviousAction, PreviousReward

__all__ = ["FlickeringObservation", "MaskObservation", "NoisyObservation", "PreviousAction", "PreviousReward"]


def _register(environment_id: str, base: str, entry_point: str, **options: Any) -> None:
    """Register a variant of Gymnasium's `base` with its time limit and reward threshold."""
    full = gymnasium.spec(base)
    gymnasium.register(
        environment_id,
        entry_point=f"{__name__}.{entry_point}",
        max_episode_steps=full.max_episode_steps,
        reward_threshold=full.reward_threshold,
        **options,
    )


gymnasium.register("minrl/MaskedRecall-v0", entry_point=f"{__name__}.masked_recall:MaskedRecall")
for _name, _base, _vector in (
    ("CartPoleNoVel-v1", "CartPole-v1", "classic_vector:cartpole"),
    ("PendulumNoVel-v1", "Pendulum-v1", "classic_vector:pendulum"),
    ("MountainCarContinuousNoVel-v0", "MountainCarContinuous-v0", "classic_vector:mountain_car"),
    ("AcrobotNoVel-v1", "Acrobot-v1", "acrobot_vector:acrobot"),
):
    _function = _vector.partition(":")[2]
    _register(f"minrl/{_name}", _base, f"classic:{_function}", vector_entry_point=f"{__name__}.{_vector}")
_register("minrl/LunarLanderNoVel-v3", "LunarLander-v3", "classic:lunar_lander_discrete")
_register("minrl/LunarLanderContinuousNoVel-v3", "LunarLanderContinuous-v3", "classic:lunar_lander")

for _base in PARTS:
    _name, _, _version = _base.rpartition("-")
    _register(f"minrl/{_name}-P-{_version}", _base, "mujoco:robot", kwargs={"base": _base, "part": "qpos"})
    if _base not in POSITIONS_ONLY:
        _register(f"minrl/{_name}-V-{_version}", _base, "mujoco:robot", kwargs={"base": _base, "part": "qvel"})

for _name, _function, _options in (
    ("RepeatFirst-v0", "repeat:repeat_first", {}),
    ("RepeatPrevious-v0", "repeat:repeat_previous", {}),
    ("RepeatPrevious16-v0", "repeat:repeat_previous", {"k": 16}),
    ("RepeatPrevious32-v0", "repeat:repeat_previous", {"k": 32}),
    ("RepeatPrevious64-v0", "repeat:repeat_previous", {"k": 64}),
    ("TMaze-v0", "tmaze:tmaze", {}),
    ("TMaze1000-v0", "tmaze:tmaze", {"length": 1000}),
    ("DelayedCue-v0", "delayed_cue:delayed_cue", {}),
    ("Parity-v0", "parity:parity", {}),
):
    gymnasium.register(
        f"minrl/{_name}",
        entry_point=f"{__name__}.{_function}",
        vector_entry_point=f"{__name__}.{_function}_vector",
        kwargs=_options,
    )
