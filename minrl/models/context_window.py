"""Acting with a window of past inputs that is rescanned at each step, as Decision Transformer does.

Shapes: B batch, T time, D width, K window.
"""

import torch
from torch import Tensor, nn

from minrl.cells import Cell


def refeeds(context: int | None, refeed: bool | None, has_state: bool = True) -> bool | None:
    """Return the setting `refeed`; if unset, True where an agent with a state trains on windows, else still unset.

    Unset, it follows `context` wherever the settings are read again: from a config file, or by `dataclasses.replace`.

    Trained on windows, a cell has never seen a state older than the window. Mamba, trained on hopper/medium-expert with
    windows of 20 steps, scores 62.5 from a carried state and 102.2 with the same weights and the window rescanned.

    Args:
        context: steps of the windows that the agent trains on; None for whole trajectories.
        refeed: the setting; None where it is unset.
        has_state: False for a model without memory.

    Raises:
        ValueError: for refeed without context.
    """
    if refeed and context is None:
        raise ValueError("refeed needs context, the number of steps to feed anew")
    return True if refeed is None and context is not None and has_state else refeed


def carried_state_caution(context: int | None, refeed: bool | None, has_state: bool = True) -> list[str]:
    """Return a warning for an agent that trains on windows and acts from a carried state; no line for others."""
    if context is None or refeed or not has_state:
        return []
    return [
        f"no-refeed: the agent trains on windows of {context} steps and acts from a carried state older than any in "
        "training; leave it out to act with the window rescanned, or leave out context to train on trajectories"
    ]


class Refeed(Cell):
    """Cell whose state is the last K inputs of the episode, rescanned at each step.

    A step costs a scan over K steps. The state holds the inputs, oldest first, each with a flag that it is present.

    Args:
        cell: the cell that scans the window from the zero state.
        window: K.
    """

    def __init__(self, cell: Cell, window: int) -> None:
        super().__init__()
        self.cell = cell
        self.width = cell.width
        self.window = window
        self.state_size = (window - 1) * (cell.width + 1)

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does, K steps for each output."""
        if state is None:
            state = self.initial_state(x.shape[0])
        if reset is None:
            reset = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        past = self._unpack(state)
        # Each input with a flag: is it present, and does it start an episode?
        rows = torch.cat([past, torch.cat([x.to(state.dtype), torch.ones_like(x[..., :1])], dim=-1)], dim=1)
        opens = torch.cat([torch.zeros_like(past[..., 0], dtype=torch.bool), reset], dim=1)
        windows = rows.unfold(1, self.window, 1).transpose(-1, -2)  # (B, T, K, D + 1)
        opened = opens.unfold(1, self.window, 1)  # (B, T, K)
        y = self._last_of_windows(windows.flatten(0, 1), opened.flatten(0, 1))
        last, closed = rows[:, x.shape[1] :], opens[:, x.shape[1] :]
        kept = _since_last_true(closed)
        return y.unflatten(0, x.shape[:2]), (last * kept.unsqueeze(-1)).flatten(1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        y, last = self.scan(x.unsqueeze(1), state)
        return y[:, 0], last

    def push(self, x: Tensor, state: Tensor) -> Tensor:
        """Advance the state by one input without computing the output: (B, D), (B, S) -> (B, S)."""
        present = torch.ones_like(state[:, :1])
        return torch.cat([state[:, self.width + 1 :], x.to(state.dtype), present], dim=1)

    def _unpack(self, state: Tensor) -> Tensor:
        return torch.unflatten(state, 1, (self.window - 1, self.width + 1))

    def _last_of_windows(self, windows: Tensor, opened: Tensor) -> Tensor:
        """Return the output at each window's end: (M, K, D + 1), (M, K) -> (M, D)."""
        present = (windows[..., -1] > 0) & _since_last_true(opened)
        # The first present input of a window resets the scan.
        reset = present & ~torch.cat([torch.zeros_like(present[:, :1]), present[:, :-1]], dim=1)
        y, _ = self.cell.scan(windows[..., :-1], None, reset)
        return y[:, -1]


def inputs_per_action(agent: nn.Module) -> int:
    """Return the number of inputs that an agent's backbone scans for an action: K where it rescans a window, else 1."""
    acting = getattr(agent, "acting", None)
    return acting.window if isinstance(acting, Refeed) else 1


def _since_last_true(flags: Tensor) -> Tensor:
    """Mark the steps from the last True flag of each row on, all if there is none: (B, K) -> (B, K) bool."""
    later: Tensor = flags.flip(1).cumsum(1).flip(1) - flags.long()
    since: Tensor = later == 0
    return since
