"""MinGRU and minLSTM with the signatures of `torch.nn.GRU` and `torch.nn.LSTM` (arXiv 2410.01201).

Shapes: B batch, T time, D input size, H hidden size, L layers, P parts of the gates.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from minrl.cells.base import hold_bias
from minrl.cells.nan_masks import contained
from minrl.kernels.matmul import layer, layer_of_step
from minrl.scan import Candidate, candidate_checked, gated_scan

Pair = tuple[Tensor, Tensor]


class MinLayers(nn.Module):
    """Layers of a cell with gates of the input alone: one linear map each, and a parallel scan over time.

    Args:
        input_size: D.
        hidden_size: H.
        num_layers: L; each reads the outputs of the one below.
        bias: of the gates; without it `hold` has no effect.
        batch_first: inputs and outputs are (B, T, ...) instead of (T, B, ...).
        dropout: probability between layers while training.
        bidirectional: only False.
        device, dtype: of the weights.
        candidate: the map of the candidate: "positive" (the paper's g), "tanh" or "linear".
        signed: decays in (-1, 1) instead of (0, 1), so that a state can flip its sign.
        hold: initial log-odds of keeping the state at a step, spread over H from the first to the second.

    Raises:
        ValueError: for sizes below 1, a dropout outside [0, 1], or `bidirectional`.
    """

    parts: ClassVar[int]  # P
    mode: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        candidate: Candidate = "positive",
        signed: bool = False,
        hold: tuple[float, float] = (1.0, 2.5),
    ) -> None:
        super().__init__()
        if min(input_size, hidden_size, num_layers) < 1:
            raise ValueError(
                f"input_size, hidden_size and num_layers must be at least 1, got {input_size}, {hidden_size} and "
                f"{num_layers}"
            )
        if bidirectional:
            raise ValueError(f"{self.mode} is causal and acts step by step: bidirectional can only be False")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout must be a probability between 0 and 1, got {dropout}")
        # Sizes of spaces are NumPy's.
        self.input_size, self.hidden_size, self.num_layers = int(input_size), int(hidden_size), int(num_layers)
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = False, 0
        self.candidate: Candidate = candidate_checked(candidate)
        self.signed, self.hold = signed, hold
        sizes = [self.input_size] + [self.hidden_size] * (self.num_layers - 1)
        rows = self.parts * self.hidden_size
        self.layers = nn.ModuleList(nn.Linear(size, rows, bias=bias, device=device, dtype=dtype) for size in sizes)
        self._set_hold()

    @abstractmethod
    def _hold(self, bias: Tensor, log_odds: Tensor) -> None:
        """Set the biases (P, H) of the gates so that the state is kept with log-odds (H,)."""

    def reset_parameters(self) -> None:
        """Draw new weights, as torch.nn.Linear does, with biases that keep the state."""
        for module in self._maps():
            module.reset_parameters()
        self._set_hold()

    def flatten_parameters(self) -> None:
        """Keep the weights as they are; programs call it to arrange them for cuDNN."""

    def extra_repr(self) -> str:
        """Return the arguments for the module's text."""
        text = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        return f"{text}, batch_first={self.batch_first}, dropout={self.dropout}"

    def _maps(self) -> list[nn.Linear]:
        return [module for module in self.layers if isinstance(module, nn.Linear)]

    def _set_hold(self) -> None:
        with torch.no_grad():
            for module in self._maps():
                if self.bias:
                    odds = hold_bias(self.hidden_size, self.hold).to(module.bias)
                    self._hold(module.bias.view(self.parts, self.hidden_size), odds)

    def _sequence(
        self, x: Tensor | PackedSequence, state: Tensor | None, reset: Tensor | PackedSequence | None
    ) -> tuple[Any, Tensor]:
        """Run over an input of any form: -> outputs of the same form, and the last states (L, B, H) or (L, H)."""
        if not isinstance(state, Tensor | None):
            raise ValueError(f"the initial state of {self.mode} must be a tensor (L, B, H), got {type(state).__name__}")
        if isinstance(x, PackedSequence):
            return self._packed(x, state, reset)
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            form = "(B, T, D)" if self.batch_first else "(T, B, D)"
            raise ValueError(f"input must be {form} or (T, D) with D = {self.input_size}, got {tuple(x.shape)}")
        if x.shape[0 if x.dim() == 2 else int(self.batch_first)] == 0:
            raise ValueError(f"input must have at least one step, got {tuple(x.shape)}")
        if reset is not None and not (
            isinstance(reset, Tensor) and reset.shape == x.shape[:-1] and reset.dtype == torch.bool
        ):
            raise ValueError(
                f"reset must be a bool tensor of shape {tuple(x.shape[:-1])}, True where an episode starts"
            )
        if x.dim() == 2:
            single = None if state is None else state.unsqueeze(1)
            y, last = self._rows(x.unsqueeze(0), single, None if reset is None else reset.unsqueeze(0))
            return y.squeeze(0), last.squeeze(1)
        if self.batch_first:
            return self._rows(x, state, reset)
        y, last = self._rows(x.transpose(0, 1), state, None if reset is None else reset.transpose(0, 1))
        return y.transpose(0, 1), last

    def _packed(self, x: PackedSequence, state: Tensor | None, reset: Any) -> tuple[PackedSequence, Tensor]:
        """Run over sequences of several lengths: padded, as no step reads a later one."""
        if x.data.dim() != 2 or x.data.shape[1] != self.input_size:
            raise ValueError(f"packed input must have D = {self.input_size}, got {tuple(x.data.shape[1:])}")
        flags = None
        if reset is not None:
            if not isinstance(reset, PackedSequence) or not torch.equal(reset.batch_sizes, x.batch_sizes):
                raise ValueError("reset of a PackedSequence must be one too, packed from flags as the input is")
            flags, _ = pad_packed_sequence(PackedSequence(reset.data, x.batch_sizes), batch_first=True)
        rows, lengths = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes), batch_first=True)
        if state is not None and state.shape[1] != len(lengths):
            raise ValueError(f"the initial state must be (L, B, H) with B = {len(lengths)}, got {tuple(state.shape)}")
        if state is not None and x.sorted_indices is not None:
            state = state.index_select(1, x.sorted_indices)
        y, last = self._rows(rows, state, flags, lengths)
        packed = pack_padded_sequence(y, lengths, batch_first=True).data
        if x.unsorted_indices is not None:
            last = last.index_select(1, x.unsorted_indices)
        return PackedSequence(packed, x.batch_sizes, x.sorted_indices, x.unsorted_indices), last

    def _rows(self, x: Tensor, state: Tensor | None, reset: Tensor | None, lengths: Tensor | None = None) -> Pair:
        """Run all layers: (B, T, D), (L, B, H), (B, T) bool, (B,) -> (B, T, H), (L, B, H)."""
        shape = (self.num_layers, x.shape[0], self.hidden_size)
        if state is not None and state.shape != shape:
            raise ValueError(f"the initial state must be (L, B, H) = {shape}, got {tuple(state.shape)}")
        places = None
        if lengths is not None:
            places = (lengths - 1).to(x.device).view(-1, 1, 1).expand(-1, 1, self.hidden_size)

        def scan(_: nn.Module, x: Tensor, state: Tensor | None, reset: Tensor | None) -> Pair:
            return self._scan(x, state, reset, places)

        flat = None if state is None else state.transpose(0, 1).reshape(shape[1], -1)
        y, last = contained(scan)(self, x, flat, reset)
        return y, last.view(shape[1], shape[0], shape[2]).transpose(0, 1).contiguous()

    def _scan(self, x: Tensor, state: Tensor | None, reset: Tensor | None, places: Tensor | None) -> Pair:
        """Run all layers: (B, T, D), (B, LH), (B, T) bool, and the last steps (B, 1, H) -> (B, T, H), (B, LH)."""
        if state is not None:
            state = state.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        if x.shape[1] == 1 and reset is not None:  # a step: nothing to scan
            state, reset = None if state is None else state.masked_fill(reset, 0.0), None
        lasts = []
        for number, module in enumerate(self.layers):
            if number and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            gates = layer(module, x) if x.shape[1] > 1 else layer_of_step(module, x[:, 0]).unsqueeze(1)
            part = None if state is None else state[:, number * self.hidden_size : (number + 1) * self.hidden_size]
            x, last = gated_scan(gates, part, reset, parts=self.parts, candidate=self.candidate, signed=self.signed)
            # Padding follows the last step of a shorter sequence.
            lasts.append(last if places is None else x.gather(1, places).squeeze(1))
        return x, torch.cat(lasts, dim=1)


class MinGRU(MinLayers):
    """MinGRU in the place of `torch.nn.GRU`, with arguments and shapes as there.

    `reset` marks the first steps of episodes, whose states start from zero: one call takes whole rollouts.
    """

    parts, mode = 2, "MinGRU"

    def _hold(self, bias: Tensor, log_odds: Tensor) -> None:
        bias[0] = -log_odds

    def forward(
        self, input: Any, hx: Tensor | None = None, *, reset: Tensor | PackedSequence | None = None
    ) -> tuple[Any, Tensor]:
        """Run over sequences, or one step of each.

        Args:
            input: (T, B, D), (B, T, D) with `batch_first`, (T, D), or a PackedSequence.
            hx: initial states (L, B, H), or (L, H) beside (T, D); None is zero.
            reset: bool, True where a step opens an episode: (T, B), (B, T), (T,) or packed, as `input` is.

        Returns:
            Outputs of the last layer in the form of `input`, and the last states in that of `hx`: float32, or float64
            for float64 inputs.

        Raises:
            ValueError: for shapes that do not fit.
        """
        return self._sequence(input, hx, reset)


class MinLSTM(MinLayers):
    """MinLSTM in the place of `torch.nn.LSTM`, with arguments and shapes as there.

    A minLSTM has one state. In the pair (h, c) that programs of LSTMs carry, h is that state and c a copy, which is
    not read. `reset` marks the first steps of episodes, whose states start from zero.
    """

    parts, mode = 3, "MinLSTM"

    def _hold(self, bias: Tensor, log_odds: Tensor) -> None:
        bias[0], bias[1] = log_odds, -log_odds

    def forward(
        self, input: Any, hx: Pair | Tensor | None = None, *, reset: Tensor | PackedSequence | None = None
    ) -> tuple[Any, Pair]:
        """Run over sequences, or one step of each, as `MinGRU.forward` does.

        Args:
            input: (T, B, D), (B, T, D) with `batch_first`, (T, D), or a PackedSequence.
            hx: initial states h and c, (L, B, H) each, or h alone; None is zero.
            reset: as for `MinGRU`.

        Returns:
            Outputs of the last layer, and the pair of the last states, of which the second equals the first.

        Raises:
            ValueError: for shapes that do not fit.
        """
        state = hx if hx is None or isinstance(hx, Tensor) else hx[0]
        y, last = self._sequence(input, state, reset)
        return y, (last, last.clone())
