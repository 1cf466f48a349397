"""Reading of policies that Stable-Baselines3 and sb3-contrib saved, without opening their pickles."""

from minrl.zoo.archive import is_policy_file
from minrl.zoo.open import load_zip, load_zip_in
from minrl.zoo.statistics import find_statistics

__all__ = ["find_statistics", "is_policy_file", "load_zip", "load_zip_in"]
