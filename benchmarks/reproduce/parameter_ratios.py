"""Parameter counts of minGRU and minLSTM over those of GRU and LSTM (arXiv 2410.01201, section 3).

Shapes: D width, H = alpha * D inner width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from minrl.agent import parameter_count
from minrl.cells import CELLS, Cell

from .frame import Done, Experiment, Numbers, Part, Report, Request, Size
from .sequence_model import label


@dataclass(frozen=True)
class Config:
    """Input width D at which the parameters are counted."""

    width: int


SIZES: dict[Size, Config] = {"quick": Config(16), "small": Config(64), "full": Config(512)}
ALPHAS = (1, 2, 3, 4)
PEERS = {"mingru": "gru", "minlstm": "lstm"}
# Per cent, rounded there (sections 3.1 and 3.2).
PAPER = {"mingru": (33, 22, 17, 13), "minlstm": (38, 25, 19, 15)}


def recurrent_parameters(cell: Cell) -> int:
    """Count the parameters of a cell without the projection from H back to D, which the paper leaves out."""
    down = cell.down
    assert isinstance(down, nn.Module)
    return parameter_count(cell) - parameter_count(down)


def count(cell: str, width: int, alpha: int) -> Numbers:
    """Count the parameters of a cell without biases and of its peer, both with H = alpha * D."""
    made = {name: CELLS[name](width, expand=alpha, bias=False) for name in (cell, PEERS[cell])}
    ours, theirs = (recurrent_parameters(module) for module in made.values())
    return {"parameters": ours, "peer": PEERS[cell], "peer_parameters": theirs, "per_cent": 100 * ours / theirs}


def parts(request: Request) -> list[Part]:
    """List a part for each cell and alpha."""
    config = SIZES[request.size]
    return [
        Part(
            f"{cell}, alpha = {alpha}",
            request.settings(config, cell=cell, alpha=alpha),
            partial(count, cell, config.width, alpha),
        )
        for cell in request.cells
        for alpha in ALPHAS
    ]


def report(done: Sequence[Done]) -> Report:
    """Report a row for each cell and alpha."""
    rows = []
    for part in done:
        cell, alpha, numbers = part.settings["cell"], part.settings["alpha"], part.numbers
        rows.append(
            (
                f"{label(cell)} / {label(PEERS[cell])}", str(alpha), f"{numbers['parameters']:,}",
                f"{numbers['peer_parameters']:,}", f"{numbers['per_cent']:.2f} %", f"{PAPER[cell][alpha - 1]} %",
            )
        )  # fmt: skip
    width = done[0].settings["width"]
    notes = (
        f"Counted in this library's own modules of D = {width} and H = alpha · D, without biases and without the "
        "projection from H back to D, as the paper counts: minGRU 2·H·D, minLSTM 3·H·D, GRU 3·H·(D + H), "
        "LSTM 4·H·(D + H).",
    )
    head = ("cells", "alpha = H / D", "parameters", "of the peer", "ratio", "the paper's (sections 3.1, 3.2)")
    return Report(head, rows, notes)


EXPERIMENT = Experiment(
    title="Parameters of minGRU and minLSTM",
    sizes={"small": "counted, a second", "full": "the same at a larger width"},
    parts=parts,
    report=report,
    cells=tuple(PEERS),
    known_cells=tuple(PEERS),
)
