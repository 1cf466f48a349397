"""Videos of episodes as animated GIFs.

Shapes: H, W size of a frame in pixels.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.agent import Actor
from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.wrappers import ScalarReward
from minrl.play import Player
from minrl.runs.folder import VIDEOS
from minrl.runs.log import Picture
from minrl.system.files import make_folder, replacing
from minrl.system.messages import one_line
from minrl.system.mujoco import quiet_mujoco

# Frames per second. A GIF counts time in 1/100 s, and browsers slow down GIFs of more than 50 frames per second.
_RATE = 25.0
_MOST_FRAMES = 500
_LARGEST = 320  # pixels


def check_renders(environment: EnvironmentInfo, modes: Sequence[str]) -> None:
    """Check that frames of the environment, whose render modes are `modes`, can be rendered and saved as GIF."""
    if find_spec("PIL") is None:
        raise ValueError("--video writes GIFs with Pillow: pip install pillow")
    failed = f"--video: environment {environment.id} cannot be rendered"
    if "rgb_array" not in modes:
        raise ValueError(f"{failed}; its render modes: {', '.join(modes) or 'none'}")
    try:
        with closing(_rendered(environment)) as world:
            world.reset(seed=0)
            frame: Any = world.render()
    except Exception as error:  # a missing pygame, display or driver raises many types
        hint = (
            " (MuJoCo renders without a display by EGL, or with MUJOCO_GL=osmesa by OSMesa: install one of them)"
            if "GL" in str(error)
            else ""
        )
        raise ValueError(f"{failed}: {one_line(error)}{hint}") from error
    if np.ndim(frame) != 3:
        raise ValueError(f"{failed}: it returns a {type(frame).__name__} instead of an image")


def record_episode(agent: Actor, environment: EnvironmentInfo, seed: int) -> Picture:
    """Record the episode of `reset(seed=seed)`, modal actions, in real time, at most 500 steps."""
    quiet_mujoco()
    frames: list[npt.NDArray[np.uint8]] = []
    with closing(_rendered(environment)) as world:
        rate = float(world.metadata.get("render_fps") or _RATE)
        stride = max(1, round(rate / _RATE))
        player, masked = Player(agent, 1), agent.task.masked and world.has_wrapper_attr("action_masks")
        observation, _ = world.reset(seed=seed)
        reward, start, over, step = 0.0, True, False, 0
        while not over and len(frames) < _MOST_FRAMES:
            if step % stride == 0:
                frames.append(_frame(world))
            masks = world.get_wrapper_attr("action_masks")() if masked else None
            action = player.act(_stacked(observation), [reward], [start], masks)
            observation, reward, terminated, truncated, _ = world.step(_first(action))
            start, over, step = False, terminated or truncated, step + 1
        frames.append(_frame(world))
    return animation(frames, rate / stride)


def save_video(video: Picture, folder: Path, step: int) -> None:
    """Write the video of `step` into the videos of a run's folder."""
    make_folder(folder / VIDEOS)
    with replacing(folder / VIDEOS / f"step_{step}.gif") as temporary:
        temporary.write_bytes(video.data)


def animation(frames: list[npt.NDArray[np.uint8]], rate: float) -> Picture:
    """Encode frames (H, W, 3) as a looping GIF of `rate` frames per second."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((_LARGEST, _LARGEST))
    first, *others = pictures
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
    return Picture(file.getvalue(), first.width, first.height)


def _rendered(environment: EnvironmentInfo) -> Any:
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        # Pygame renders off screen; without this it warns about the missing display.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        # MuJoCo would look for a display too.
        os.environ.setdefault("MUJOCO_GL", "egl")
    return ScalarReward(make_environment(environment, render_mode="rgb_array"))


def _frame(world: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(world.render(), dtype=np.uint8)


def _stacked(observation: Any) -> Any:
    """Stack one observation to a batch of one, structure kept."""
    if isinstance(observation, dict):
        return {key: _stacked(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(_stacked(part) for part in observation)
    return np.asarray(observation)[None]


def _first(action: Any) -> Any:
    """Take the first action of a batch, structure kept."""
    if isinstance(action, dict):
        return {key: _first(part) for key, part in action.items()}
    return tuple(_first(part) for part in action) if isinstance(action, tuple) else action[0]
