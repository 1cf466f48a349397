"""Data sets of trajectories: loading, checking, batching."""

from minrl.data.batches import Packed, Windows
from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.episode import Episodes, build_episodes
from minrl.data.load import load

__all__ = ["EnvironmentInfo", "Episodes", "Packed", "Windows", "build_episodes", "load", "make_environment"]
