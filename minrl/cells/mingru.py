"""MinGRU (Were RNNs All We Needed?, arXiv 2410.01201, section 3.1): gates of the input alone."""

from torch import Tensor

from minrl.cells.input_gated import InputGated


class MinGRU(InputGated):
    """MinGRU with an optional wider inner state and a projection back.

    Args:
        width: D, of input and output.
        expand: H / D, the paper's alpha; a projection back to D follows where H is not D.
        candidate: the map of the candidate: "positive" (the paper's g), "tanh" or "linear".
        signed: decays in (-1, 1) instead of (0, 1), so that a state can flip its sign (it solves parity).
        gate: "hard" has z = clip(k / 6 + 1/2, 0, 1), which reaches 0 and then holds the state exactly, for any time.
        hold: initial log-odds of keeping the state at a step, spread over H from the first to the second.
        bias: of the gates; without it `hold` has no effect.
    """

    parts = 2  # update gate | candidate

    def _hold(self, bias: Tensor, log_odds: Tensor) -> None:
        bias[0] = -log_odds
