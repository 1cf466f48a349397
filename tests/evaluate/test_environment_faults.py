"""Error messages for environments that cannot be made."""

from importlib.metadata import version
from typing import Any

import gymnasium
import pytest
from packaging.version import Version

from minrl.data import EnvironmentInfo, make_environment


@pytest.mark.parametrize("name", ["FetchReach-v4", "FetchSlide-v4", "FrankaKitchen-v1", "HandReach-v3"])
@pytest.mark.filterwarnings("ignore")
def test_gymnasium_robotics_with_an_incompatible_mujoco(name: str) -> None:
    """Make these environments up to mujoco 3.11, and refuse from 3.12 on, where they fail."""
    if Version(version("mujoco")) < Version("3.12"):
        make_environment(EnvironmentInfo(name)).reset(seed=0)
        return
    with pytest.raises(ValueError, match=f"{name} cannot be made with mujoco {version('mujoco')}") as caught:
        make_environment(EnvironmentInfo(name))
    assert "it works with mujoco 2.3.3 to 3.11: pip install 'mujoco<3.12'" in str(caught.value)
    assert "\n" not in str(caught.value)


class Mute(gymnasium.Env[Any, Any]):
    def __init__(self) -> None:
        raise AssertionError


def test_an_error_without_a_message_shows_its_line() -> None:
    gymnasium.register("Mute-v0", entry_point=Mute)
    try:
        with pytest.raises(ValueError, match="Mute-v0 cannot be made: AssertionError: in ") as e:
            make_environment(EnvironmentInfo("Mute-v0"))
        assert str(e.value).endswith("raise AssertionError")
    finally:
        del gymnasium.registry["Mute-v0"]
