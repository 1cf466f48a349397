"""Controller for Gymnasium-Robotics' point mazes: a shortest path over the map's squares, PD control along it."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

Square = tuple[int, int]  # row and column of the map

# The gains of the controller that collected D4RL's maze2d sets, which plans by Q iteration instead:
# https://github.com/Farama-Foundation/D4RL/blob/61b0d257d375f9e1db07d0f474d9e7caf1df7347/d4rl/pointmaze/waypoint_controller.py#L11
POSITION_GAIN = 10.0
VELOCITY_GAIN = 1.0
# Standard deviation of the action's noise, so that paths between the same squares differ.
NOISE = 0.5


def distances(maze: list[list[int | str]], goal: Square) -> dict[Square, int]:
    """Compute steps between neighbouring free squares to `goal`: d(goal) = 0, d(s) = 1 + min of free neighbours' d.

    `maze` is a Gymnasium-Robotics map: 1 is a wall, everything else (0, "r", "g", "c") is free. Squares that cannot
    reach the goal are left out.
    """
    found = {goal: 0}
    queue = deque([goal])
    while queue:
        square = queue.popleft()
        for neighbour in neighbours(square):
            row, column = neighbour
            inside = 0 <= row < len(maze) and 0 <= column < len(maze[row])
            if inside and neighbour not in found and maze[row][column] != 1:
                found[neighbour] = found[square] + 1
                queue.append(neighbour)
    return found


def neighbours(square: Square) -> list[Square]:
    """Return the four neighbouring squares, walls and outside included."""
    row, column = square
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


class WaypointPolicy:
    """Controller that steers the point of `PointMaze_*-v3` to its goal and plans again when the goal moves.

    Args:
        environment: made from a PointMaze id; its map is read, its state is not.
        deterministic: leave out the Gaussian noise of standard deviation 0.5 on the action.

    Raises:
        ValueError: if the environment is not a point maze.
    """

    name = "waypoint controller"

    def __init__(self, environment: gym.Env[Any, Any], deterministic: bool) -> None:
        if not is_point_maze(environment):
            identifier = environment.spec.id if environment.spec else str(environment)
            raise ValueError(
                f"policy 'waypoint' is for PointMaze_*-v3 of gymnasium-robotics, and {identifier} is no point maze; "
                "give a Stable-Baselines3 .zip or 'random'"
            )
        self.maze: Any = environment.get_wrapper_attr("maze")
        self.deterministic = deterministic
        self.plans: dict[Square, dict[Square, int]] = {}  # distances to each goal so far

    def start(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the force (2,) in [-1, 1] for `observation` (4,), position and velocity, and `desired_goal` (2,)."""
        position, velocity = observation["observation"][:2], observation["observation"][2:]
        target = self.waypoint(position, observation["desired_goal"])
        force = POSITION_GAIN * (target - position) - VELOCITY_GAIN * velocity
        if not self.deterministic:
            force = force + NOISE * self.random.standard_normal(2)
        action: np.ndarray = np.clip(force, -1.0, 1.0).astype(np.float32)
        return action

    def waypoint(self, position: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Return the centre of the next square on a shortest path, or the goal itself inside its square."""
        square, goal_square = self.square(position), self.square(goal)
        if goal_square not in self.plans:
            self.plans[goal_square] = distances(self.maze.maze_map, goal_square)
        plan = self.plans[goal_square]
        reachable = [neighbour for neighbour in neighbours(square) if neighbour in plan]
        if square == goal_square or not reachable:
            return goal
        following = min(reachable, key=plan.__getitem__)
        centre: np.ndarray = self.maze.cell_rowcol_to_xy(np.array(following))
        return centre

    def square(self, position: np.ndarray) -> Square:
        """Return the square that contains a position (2,)."""
        row, column = self.maze.cell_xy_to_rowcol(position)
        return int(row), int(column)


def is_point_maze(environment: gym.Env[Any, Any]) -> bool:
    try:
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError:
        return False
    return isinstance(environment.unwrapped, PointMazeEnv)
