"""Acting by feeding a window of past inputs anew at each step, as Decision Transformer does.

Shapes: B batch, T time, D width, K window.
"""

import torch
from torch import Tensor

from minrl.cells import Cell


def refeeds(context: int | None, refeed: bool | None, has_state: bool = True) -> bool:
    """Return True if an agent acts by feeding its window anew: wherever it trains on windows and carries a state.

    Trained on windows, a cell has never seen a state older than the window. hopper/medium-expert by Mamba on windows of
    20 steps scores 62.5 from a carried state, and 102.2 with the same weights and the window fed anew.

    Args:
        context: steps of the windows that the agent trains on; None for whole trajectories.
        refeed: what the settings say; None where they say nothing.
        has_state: False for a model that sees the present alone.

    Raises:
        ValueError: for refeed without context.
    """
    if refeed and context is None:
        raise ValueError("refeed needs context, the number of steps to feed anew")
    return context is not None and has_state if refeed is None else refeed


def carried_state_caution(context: int | None, refeed: bool | None, has_state: bool = True) -> list[str]:
    """Return a line for an agent that trains on windows and acts from a carried state; nothing for others."""
    if context is None or refeed or not has_state:
        return []
    return [
        f"no-refeed: the agent trains on windows of {context} steps and acts from a carried state, which is older than "
        "any that it saw; leave it out to act with the window fed anew, or leave out context to train on trajectories"
    ]


class Refeed(Cell):
    """A cell that sees exactly the last K inputs of the episode: its memory is those inputs, nothing else.

    Its cost per step is that of a scan over K steps. The state holds the inputs, oldest first, and beside each
    whether there was one.

    Args:
        cell: what is run over the window, from the empty memory.
        window: K.
    """

    def __init__(self, cell: Cell, window: int) -> None:
        super().__init__()
        self.cell = cell
        self.width = cell.width
        self.window = window
        self.state_size = (window - 1) * (cell.width + 1)

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does. Windows that open at a reset and hold no more than K steps cost one scan."""
        if state is None:
            state = self.initial_state(x.shape[0])
        if reset is None:
            reset = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        past = self._unpack(state)
        # Each input with a flag beside it: is it an input, and does it open an episode?
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
        """Return the next state alone, where the output of a step is not needed: (B, D), (B, S) -> (B, S)."""
        present = torch.ones_like(state[:, :1])
        return torch.cat([state[:, self.width + 1 :], x.to(state.dtype), present], dim=1)

    def _unpack(self, state: Tensor) -> Tensor:
        return torch.unflatten(state, 1, (self.window - 1, self.width + 1))

    def _last_of_windows(self, windows: Tensor, opened: Tensor) -> Tensor:
        """Compute (M, K, D + 1), (M, K) -> (M, D): the output at each window's end."""
        present = (windows[..., -1] > 0) & _since_last_true(opened)
        # Where the inputs begin, an episode opens as far as the window can tell.
        reset = present & ~torch.cat([torch.zeros_like(present[:, :1]), present[:, :-1]], dim=1)
        y, _ = self.cell.scan(windows[..., :-1], None, reset)
        return y[:, -1]


def _since_last_true(flags: Tensor) -> Tensor:
    """Compute (B, K) bool -> (B, K) bool: True from the last True flag of a row on; everywhere if there is none."""
    later: Tensor = flags.flip(1).cumsum(1).flip(1) - flags.long()
    since: Tensor = later == 0
    return since
