"""Settings of the entropy in soft actor-critic: its coefficient, and the entropy to which that is steered."""

import math
from typing import Any

from gymnasium import spaces

# Target entropy of K choices, of the log K nats of a uniform policy. Christodoulou's 0.98 leaves them almost uniform.
CHOICE_ENTROPY = 0.3


def first_ent_coef(given: str | float) -> tuple[float, bool]:
    """Return the first entropy coefficient, and whether it is learned: "auto", "auto_0.1" or a number above 0."""
    word, _, start = str(given).partition("_")
    try:
        first = float(start or 1.0) if word == "auto" else float(given)
    except ValueError:
        first = 0.0
    if not (first > 0 and math.isfinite(first)):
        raise ValueError(f'ent_coef must be "auto", "auto_0.1" or a number above 0, got {given!r}')
    return first, word == "auto"


def steered_entropy(space: Any, given: str | float) -> float:
    """Return the target entropy in nats for an action space: a number, or by default for "auto"."""
    if given != "auto":
        try:
            return float(given)
        except ValueError as error:
            raise ValueError(f'target_entropy must be "auto" or a number, got {given!r}') from error
    return (
        CHOICE_ENTROPY * math.log(int(space.n))
        if isinstance(space, spaces.Discrete)
        else -float(math.prod(space.shape))
    )
