"""Vector environments of Gymnasium and EnvPool as Stable-Baselines3's `VecEnv`."""

from minrl.online.vector.adapter import VectorEnvironment, as_vec_env

__all__ = ["VectorEnvironment", "as_vec_env"]
