"""A controller for Gymnasium-Robotics' point mazes: a shortest path over cells, PD control along it."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

Cell = tuple[int, int]

# The gains of the controller that collected D4RL's maze2d sets, which plans by Q iteration instead:
# https://github.com/Farama-Foundation/D4RL/blob/61b0d257d375f9e1db07d0f474d9e7caf1df7347/d4rl/pointmaze/waypoint_controller.py#L11
POSITION_GAIN = 10.0
VELOCITY_GAIN = 1.0
# Standard deviation of the action's noise, so that paths between the same cells differ.
NOISE = 0.5


def distances(maze: list[list[int | str]], goal: Cell) -> dict[Cell, int]:
    """Steps between neighbouring free cells to `goal`: d(goal) = 0, d(c) = 1 + min over free neighbours d(n).

    `maze` is a Gymnasium-Robotics map: 1 is a wall, everything else (0, "r", "g", "c") is free. Cells that
    cannot reach the goal are left out.
    """
    found = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for neighbour in neighbours(cell):
            row, column = neighbour
            inside = 0 <= row < len(maze) and 0 <= column < len(maze[row])
            if inside and neighbour not in found and maze[row][column] != 1:
                found[neighbour] = found[cell] + 1
                queue.append(neighbour)
    return found


def neighbours(cell: Cell) -> list[Cell]:
    row, column = cell
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


class WaypointPolicy:
    """Steers the point of `PointMaze_*-v3` to its goal; knows the map, plans again when the goal moves.

    Args:
        environment: an environment made from a PointMaze id; its map is read, its state is not.
        deterministic: without it, Gaussian noise of standard deviation 0.5 is added to the action.

    Raises:
        ValueError: the environment is not a point maze.
    """

    name = "waypoint controller"

    def __init__(self, environment: gym.Env[Any, Any], deterministic: bool) -> None:
        if not is_point_maze(environment):
            identifier = environment.spec.id if environment.spec else str(environment)
            raise ValueError(
                f"policy 'waypoint' pushes a point through PointMaze_*-v3 of gymnasium-robotics, "
                f"and {identifier} is no point maze; give a Stable-Baselines3 .zip or 'random'"
            )
        self.maze: Any = environment.get_wrapper_attr("maze")
        self.deterministic = deterministic
        self.plans: dict[Cell, dict[Cell, int]] = {}

    def start(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """`observation` (4,): x, y and their velocities; `desired_goal` (2,) -> a force (2,) in [-1, 1]."""
        position, velocity = observation["observation"][:2], observation["observation"][2:]
        target = self.waypoint(position, observation["desired_goal"])
        force = POSITION_GAIN * (target - position) - VELOCITY_GAIN * velocity
        if not self.deterministic:
            force = force + NOISE * self.random.standard_normal(2)
        action: np.ndarray = np.clip(force, -1.0, 1.0).astype(np.float32)
        return action

    def waypoint(self, position: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The centre of the next cell on a shortest path, or the goal itself once its cell is reached."""
        cell, goal_cell = self.cell(position), self.cell(goal)
        if goal_cell not in self.plans:
            self.plans[goal_cell] = distances(self.maze.maze_map, goal_cell)
        plan = self.plans[goal_cell]
        reachable = [neighbour for neighbour in neighbours(cell) if neighbour in plan]
        if cell == goal_cell or not reachable:
            return goal
        following = min(reachable, key=plan.__getitem__)
        centre: np.ndarray = self.maze.cell_rowcol_to_xy(np.array(following))
        return centre

    def cell(self, position: np.ndarray) -> Cell:
        row, column = self.maze.cell_xy_to_rowcol(position)
        return int(row), int(column)


def is_point_maze(environment: gym.Env[Any, Any]) -> bool:
    try:
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError:
        return False
    return isinstance(environment.unwrapped, PointMazeEnv)
