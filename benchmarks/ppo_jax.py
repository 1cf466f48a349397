"""Recurrent PPO as one XLA call, in the style of purejaxrl: environment, acting, advantages and all minibatches.

The defaults of Stable-Baselines3's PPO, on CartPole without velocities, except for the value of the last observation at
a time limit, which purejaxrl leaves out too. Written for `ppo_speed.py`; it needs `pip install "minrl[bench]"`.

Shapes: B environments, T steps of a rollout.
"""

import os
import time
from typing import Any, NamedTuple

# One thread, like all that it is compared with; read when jax is imported.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
from jax import lax
from ppo_jax_network import Array, Weights, initial_state, initial_weights, scan, step

GAMMA, LAMBDA, CLIP, VALUE, MOST_NORM, EPSILON = 0.99, 0.95, 0.2, 0.5, 0.5, 1e-5
RATE = 3e-4
LIMIT = 500  # steps of an episode


class Settings(NamedTuple):
    """Sizes, compiled in."""

    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    width: int
    cell: str
    depth: int = 2
    rate: float = RATE
    gamma: float = GAMMA
    gae_lambda: float = LAMBDA


class Training(NamedTuple):
    """Weights, optimizer and environment states of a training loop."""

    weights: Weights
    first: Weights  # Adam's moments
    second: Weights
    updates: Array
    world: Array  # (4, B) cart position and velocity, pole angle and angular velocity
    elapsed: Array  # (B,)
    reset: Array  # (B,) True where an episode starts
    state: Array  # of the network
    key: Array


class Rollout(NamedTuple):
    """Steps of all environments, (T, B, …)."""

    observations: Array
    reset: Array
    actions: Array
    log_probs: Array
    values: Array
    advantages: Array
    returns: Array


def start(settings: Settings, seed: int) -> Training:
    """Return the initial state of a training."""
    key, of_weights, of_world = jax.random.split(jax.random.key(seed), 3)
    weights = initial_weights(of_weights, 3, 2, settings.width, settings.depth, settings.cell)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    rows = settings.n_envs
    return Training(
        weights, zeros, zeros, jnp.zeros((), jnp.int32), _fresh(of_world, rows), jnp.zeros(rows, jnp.int32),
        jnp.ones(rows, bool), initial_state(rows, settings.width, settings.depth), key,
    )  # fmt: skip


def _fresh(key: Array, rows: int) -> Array:
    return jax.random.uniform(key, (4, rows), minval=-0.05, maxval=0.05)


def world_step(world: Array, elapsed: Array, actions: Array, key: Array) -> tuple[Array, Array, Array]:
    """Step CartPole as Gymnasium does and reset ended episodes; return state, steps and ends (B,)."""
    _, x_dot, theta, theta_dot = world
    force = jnp.where(actions == 1, 10.0, -10.0)
    cosine, sine = jnp.cos(theta), jnp.sin(theta)
    pushed = (force + 0.05 * theta_dot**2 * sine) / 1.1
    turning = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
    rates = jnp.stack([x_dot, pushed - 0.05 * turning * cosine / 1.1, theta_dot, turning])
    world, elapsed = world + 0.02 * rates, elapsed + 1
    ends = (jnp.abs(world[0]) > 2.4) | (jnp.abs(world[2]) > 12 * 2 * jnp.pi / 360) | (elapsed >= LIMIT)
    return jnp.where(ends, _fresh(key, world.shape[1]), world), jnp.where(ends, 0, elapsed), ends


def _act(settings: Settings, training: Training) -> tuple[Training, Rollout]:
    """Collect a rollout and compute its advantages."""
    weights = training.weights

    def one(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        world, elapsed, reset, state, key = carry
        key, of_action, of_world = jax.random.split(key, 3)
        seen = world[::2].T
        logits, values, state = step(weights, seen, state, reset)
        actions = jax.random.categorical(of_action, logits)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1)[:, 0]
        world, elapsed, ends = world_step(world, elapsed, actions, of_world)
        return (world, elapsed, ends, state, key), (seen, reset, actions, log_probs, values)

    carry = (training.world, training.elapsed, training.reset, training.state, training.key)
    carry, (seen, reset, actions, log_probs, values) = lax.scan(one, carry, None, settings.n_steps)
    world, elapsed, ends, state, key = carry
    _, last, _ = step(weights, world[::2].T, state, ends)

    def back(later: tuple[Array, ...], now: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        advantage, value_after, goes_on = later
        value, opens = now
        delta = 1.0 + settings.gamma * value_after * goes_on - value
        advantage = delta + settings.gamma * settings.gae_lambda * goes_on * advantage
        return (advantage, value, 1.0 - opens), advantage

    later = (jnp.zeros_like(last), last, 1.0 - ends)
    _, advantages = lax.scan(back, later, (values, reset.astype(jnp.float32)), reverse=True)
    training = training._replace(world=world, elapsed=elapsed, reset=ends, state=state, key=key)
    return training, Rollout(seen, reset, actions, log_probs, values, advantages, advantages + values)


def _loss(weights: Weights, rows: Rollout, state: Array) -> Array:
    logits, values, _ = scan(weights, rows.observations, state, rows.reset)
    log_all = jax.nn.log_softmax(logits)
    log_probs = jnp.take_along_axis(log_all, rows.actions[..., None], -1)[..., 0]
    advantages = (rows.advantages - rows.advantages.mean()) / (rows.advantages.std(ddof=1) + 1e-8)
    ratio = jnp.exp(log_probs - rows.log_probs)
    gain = jnp.minimum(advantages * ratio, advantages * jnp.clip(ratio, 1 - CLIP, 1 + CLIP)).mean()
    return VALUE * ((rows.returns - values) ** 2).mean() - gain


def _updated(settings: Settings, training: Training, rows: Rollout, state: Array) -> Training:
    """Take one gradient step: the norm of the gradient clipped, then Adam."""
    gradient = jax.grad(_loss)(training.weights, rows, state)
    norm = jnp.sqrt(sum(jnp.sum(part * part) for part in jax.tree.leaves(gradient)))
    scale = jnp.minimum(1.0, MOST_NORM / (norm + 1e-6))
    count = training.updates + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * scale * g, training.first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (scale * g) ** 2, training.second, gradient)
    of_first, of_second = 1 - 0.9**count, 1 - 0.999**count
    weights = jax.tree.map(
        lambda w, m, v: w - settings.rate * (m / of_first) / (jnp.sqrt(v / of_second) + EPSILON),
        training.weights, first, second,
    )  # fmt: skip
    return training._replace(weights=weights, first=first, second=second, updates=count)


def iteration(settings: Settings, training: Training, _: None = None) -> tuple[Training, Array]:
    """Act and learn once; return the number of episodes that ended. A minibatch is whole rows of the rollout."""
    state = training.state
    training, rollout = _act(settings, training)
    per_batch = settings.batch_size // settings.n_steps

    def minibatch(training: Training, rows: Array) -> tuple[Training, None]:
        chosen = jax.tree.map(lambda x: x[:, rows], rollout)
        return _updated(settings, training, chosen, state[:, rows]), None

    def epoch(training: Training, _: None) -> tuple[Training, None]:
        key, of_order = jax.random.split(training.key)
        order = jax.random.permutation(of_order, settings.n_envs).reshape(-1, per_batch)
        return lax.scan(minibatch, training._replace(key=key), order)

    training = lax.scan(epoch, training, None, settings.n_epochs)[0]
    return training, rollout.reset.sum()


class JaxPPO:
    """Training that one XLA call continues, compiled on construction.

    Attributes:
        compile_seconds: CPU seconds of compiling, not part of other figures.
        num_timesteps: steps of all environments so far.
    """

    def __init__(self, settings: Settings, seed: int = 0, iterations: int = 1) -> None:
        """Compile `iterations` of acting and learning as one call.

        Raises:
            ValueError: if a minibatch does not consist of whole rows of the rollout.
        """
        if settings.batch_size % settings.n_steps or settings.n_envs % (settings.batch_size // settings.n_steps):
            raise ValueError(f"minibatches must be whole rows of a rollout and of one size, got {settings}")
        self.settings, self.training, self.num_timesteps = settings, start(settings, seed), 0
        self._steps = iterations * settings.n_envs * settings.n_steps
        self._score: Any = None
        begin = time.process_time()

        def run(training: Training) -> tuple[Training, Array]:
            return lax.scan(lambda carry, _: iteration(settings, carry), training, None, iterations)

        self._run = jax.jit(run).lower(self.training).compile()
        self.compile_seconds = time.process_time() - begin

    def score(self, seed: int, episodes: int) -> float:
        """Return the mean return of `episodes` episodes of most likely actions."""
        if self._score is None:
            settings = self.settings

            def play(weights: Weights, key: Array) -> Array:
                def one(carry: tuple[Array, ...], key: Array) -> tuple[tuple[Array, ...], None]:
                    world, elapsed, reset, state, length, over = carry
                    logits, _, state = step(weights, world[::2].T, state, reset)
                    world, elapsed, ends = world_step(world, elapsed, logits.argmax(-1), key)
                    return (world, elapsed, ends, state, length + ~over, over | ends), None

                zeros = jnp.zeros(episodes, jnp.int32)
                begin = (
                    _fresh(key, episodes), zeros, zeros == 0, initial_state(episodes, settings.width, settings.depth),
                    zeros, zeros == 1,
                )  # fmt: skip
                return lax.scan(one, begin, jax.random.split(key, LIMIT))[0][4].mean()

            self._score = jax.jit(play)
        return float(self._score(self.training.weights, jax.random.key(seed)))

    def learn(self, steps: int, reset_num_timesteps: bool = False) -> None:
        """Continue for `steps` steps of all environments, a multiple of those of a call."""
        for _ in range(steps // self._steps):
            self.training, _ = self._run(self.training)
            self.num_timesteps += self._steps
        jax.block_until_ready(self.training)
