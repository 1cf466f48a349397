"""Each cell against an independent implementation with the same weights: the largest difference, in one table.

    python benchmarks/cell_agreement.py [--table benchmarks/cell_agreement.md]

Outputs and the gradient of the input in float32, from the zero state; a difference is the largest one over the largest
value, or over 1 if all are smaller. Missing packages are listed with their install command; cells without an
independent implementation are compared with a float64 transcription of their paper's equations by the test that the
table names. The exit code is 1 if a difference exceeds 1e-5.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from cell_peers.table import PEERS, Peer
from torch import Tensor

from minrl.cells import CELLS
from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
BATCH, STEPS, BOUND = 4, 64, 1e-5
# Cells, and options of cells, without a peer: the test that compares them with the equations.
TRANSCRIBED = {
    "`lstm`, `peepholes=true`": "tests/cells/test_lstm_peepholes.py",
    "`mingru`, `signed=true`": "tests/kernels/test_scan.py",
    "`s4d`": "tests/cells/test_s4d.py",
    "`lru`": "tests/cells/test_lru.py",
    "`qrnn`": "tests/cells/test_qrnn.py",
}


def difference(actual: Tensor, wanted: Tensor) -> float:
    """Return the largest difference over the largest value, or over 1."""
    return ((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1.0)).item()


def measure(peer: Peer) -> tuple[float, float | None]:
    """Measure differences of outputs and of the input's gradient, None if the peer has no gradient."""
    torch.manual_seed(0)
    pair = peer.pair()
    x = torch.randn(BATCH, STEPS, pair.cell.width, requires_grad=True)
    direction = torch.randn_like(x)
    y, wanted = pair.cell.eval().scan(x)[0], pair.run(x)
    of_outputs = difference(y, wanted)
    if not wanted.requires_grad:
        return of_outputs, None
    ours, theirs = (torch.autograd.grad((out * direction).sum(), x)[0] for out in (y, wanted))
    return of_outputs, difference(ours, theirs)


def row(peer: Peer) -> tuple[str, float]:
    """Format a line of the table, and return the larger difference; 0 for a missing package."""
    head = f"| `{peer.cell}` | {peer.package} | "
    try:
        outputs, gradient = measure(peer)
    except ModuleNotFoundError as error:
        return f"{head}not installed (`pip install {peer.package}`: no {error.name}) | {peer.what} | - | - |", 0.0
    except (ImportError, OSError) as error:  # a package that has to be compiled first, or requires a GPU
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{head}does not run here ({reason}) | {peer.what} | - | - |", 0.0
    shown = "none" if gradient is None else f"{gradient:.1e}"
    line = f"{head}{version(peer.package)} | {peer.what} | {outputs:.1e} | {shown} |"
    return line, max(outputs, gradient or 0.0)


def table() -> tuple[str, float]:
    """Format the table as Markdown, and return the largest difference in it."""
    order = list(CELLS)
    rows = [row(peer) for peer in sorted(PEERS, key=lambda peer: order.index(peer.cell))]
    packages = sorted({peer.package for peer in PEERS} - {"torch"})
    held = "none | - | float64 transcription of the equations:"
    lines = [
        "# Cells and independent implementations with the same weights",
        "",
        "| cell | package | version | what of it | outputs | gradient of the input |",
        "|---|---|---|---|---|---|",
        *(line for line, _ in rows),
        *(f"| {cell} | {held} {test} | - | - |" for cell, test in TRANSCRIBED.items()),
        "",
        f"float32, {BATCH} x {STEPS} steps from the zero state, random weights: the largest difference over the "
        f"largest value, or over 1 where all are smaller; the bound is {BOUND:g}. CPU, torch {torch.__version__}. "
        f"Written by `python benchmarks/cell_agreement.py` after `pip install {' '.join(packages)}`; `sru` compiles "
        "C++ when it is imported. Two of them are held to a part: "
        "`sru` to outputs, without v_f and v_r (its weight_c), "
        "`rwkv6` in its recurrence; `rwkv4` and `rwkv6` are time mixing, without channel mixing.",
        "",
    ]
    return "\n".join(lines), max(largest for _, largest in rows)


def main() -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=HERE / "cell_agreement.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text, largest = table()
    print(text)
    with replacing(arguments.table) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0 if largest <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
