"""Recurrences of a block that kernels have, as they are told apart.

Shapes: P parts of the gates, H inner width.
"""

from typing import NamedTuple

MINGRU, MINLSTM, GRU, LSTM = range(4)
# Of minGRU and minLSTM: the map of the candidate, whose number is that much larger with hard gates.
CANDIDATES, HARD = {"positive": 0, "tanh": 1, "linear": 2}, 3
_PARTS, _STATES, _KEPT = (2, 3, 3, 4), (1, 1, 1, 2), (0, 0, 4, 1)


def maps(candidate: str, hard: bool) -> int:
    """Return the number by which kernels are compiled for a candidate's map and the kind of gates."""
    return CANDIDATES[candidate] + HARD * hard


class CellKind(NamedTuple):
    """A recurrence and, of minGRU and minLSTM, the number of their maps."""

    cell: int
    candidate: int = 0

    @property
    def parts(self) -> int:
        """Return P: the rows of the input's weights over H."""
        return _PARTS[self.cell]

    @property
    def states(self) -> int:
        """Return the elements of the state over H."""
        return _STATES[self.cell]

    @property
    def kept(self) -> int:
        """Return the elements over H that a step keeps for the backward pass beside gates and h."""
        return _KEPT[self.cell]

    @property
    def is_recurrent(self) -> bool:
        """Return True if the gates read the state, through weights of their own."""
        return self.cell in (GRU, LSTM)
