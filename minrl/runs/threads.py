"""Number of CPU threads of torch: one for small models, whose operations are too short to split."""

from typing import Any

import torch
from torch import nn

from minrl.agent import parameter_count

# Multiply-adds of a forward pass (parameters times time steps of a batch) from which torch chooses its threads. A
# gradient step takes 0.15 ns of CPU time for each (0.3 s at 2e9, AVX-512) in some hundred operations: at 5e9 an
# operation takes 5 ms, as long as a scheduler's time slice. Shorter ones wait for threads whose core another program
# occupies: on two busy cores a step of 3.4e8 took 2.0 s with one thread and 16.3 s with two (0.07 and 1.07 s of CPU
# time).
LARGE = 5e9
_MOST = 4096  # threads that a file may name


class _Choice:
    """Thread count that this module set last, and the count before that."""

    chosen: int | None = None
    before = 1  # the program's own


def use_threads(
    asked: int, model: nn.Module | None = None, steps: int = 1, *, places: int = 1, begun: int | None = None
) -> int:
    """Set the number of torch's threads, `asked` or (for 0) one that suits the work, and return it.

    Small models get one thread. Models whose batches cost `LARGE` multiply-adds or more get torch's default, or the
    number that the program had set. A run that goes on gets the number with which it was begun: another one sums in
    another order, and so gives other bits.

    Args:
        asked: threads; 0 to choose.
        model: that computes; None for small work.
        steps: time steps of a batch, over all its rows.
        places: elements of an observation: at most that often a convolution over images applies its weights.
        begun: threads with which the run was started; None for a new one.
    """
    now = torch.get_num_threads()
    if now != _Choice.chosen:
        _Choice.before = now
    wanted = asked or begun or (_Choice.before if model is not None and _work(model, places) * steps >= LARGE else 1)
    torch.set_num_threads(wanted)
    _Choice.chosen = wanted
    return wanted


def describe_threads(threads: int, asked: int, begun: int | None = None) -> str:
    """Return the line that states the number of threads and how to change it."""
    count = f"{threads} CPU {'thread' if threads == 1 else 'threads'}"
    if asked:
        return count
    return f"{count}, by the model's size (--threads N for others)" if begun is None else f"{count}, as before"


def threads_begun(training: dict[str, Any]) -> int | None:
    """Return the number of threads that a run's training state names; None if an older version started it."""
    threads = training.get("threads")
    return threads if isinstance(threads, int) and 0 < threads <= _MOST else None


def _work(model: nn.Module, places: int) -> int:
    """Return an upper bound of a step's multiply-adds."""
    over_images = sum(parameter_count(part) for part in model.modules() if isinstance(part, nn.Conv2d))
    return parameter_count(model) + over_images * (places - 1)
