"""Parts of cells with a constant diagonal of complex decays: arithmetic, discretisation, recurrence.

A complex number is kept as two real ones, so that a state is a real tensor and a step needs no complex arithmetic
(ONNX has none).

Decays are computed in float64 and rounded once: a slow state magnifies what its decay is off by 1 / (1 - |decay|),
2,000 times at a step size of 0.001. In float32 outputs of S5 are off by 6e-6 of the largest, so by 2e-6.

Shapes: B batch, T time, D width, N states, P parts of a number: 2 (real | imaginary), or 1 where all are real.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.scan import linear_scan


def polar(modulus: Tensor, phase: Tensor) -> Tensor:
    """Compute modulus * exp(i * phase), each (…) -> (…, 2)."""
    return torch.stack([modulus * torch.cos(phase), modulus * torch.sin(phase)], dim=-1)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Multiply complex numbers (…, P) and (…, P)."""
    if a.shape[-1] == 1:
        return a * b
    (a_re, a_im), (b_re, b_im) = a.unbind(-1), b.unbind(-1)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], dim=-1)


def expm1(x: Tensor) -> Tensor:
    """Compute exp(x) - 1 for x <= 0 in full precision, also in ONNX, which has no expm1."""
    t = torch.tanh(x / 2)
    return 2 * t / (1 - t)


def zero_order_hold(real: Tensor, imaginary: Tensor | None, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Compute exp(A dt) and (exp(A dt) - 1) / A of A = real + i * imaginary, each (…) float64 -> two (…, P).

    In float32 exp(A dt) - 1 loses four of seven digits at small steps, in float64 four of sixteen.
    """
    size = torch.exp(real * dt)
    if imaginary is None:
        return size.unsqueeze(-1), ((size - 1) / real).unsqueeze(-1)
    decay = polar(size, imaginary * dt)
    less_one, part = decay[..., 0] - 1, decay[..., 1]
    square = real.square() + imaginary.square()
    factor = [less_one * real + part * imaginary, part * real - less_one * imaginary]
    return decay, torch.stack(factor, dim=-1) / square.unsqueeze(-1)


def log_uniform(size: int, least: float, most: float) -> Tensor:
    """Draw logarithms (size) of log-uniform values in [least, most]; raise ValueError for an empty interval."""
    if not 0 < least <= most:
        raise ValueError(f"dt_min and dt_max must be positive and in order, got {least} and {most}")
    return torch.empty(size).uniform_(math.log(least), math.log(most))


def read_in(x: Tensor, matrix: Tensor, precision: torch.dtype) -> Tensor:
    """Multiply a complex matrix (N, D, 2) by real numbers (…, D) -> (…, N, 2) in `precision`."""
    pairs: Tensor = F.linear(x, matrix.movedim(-1, 1).flatten(0, 1).to(x.dtype)).to(precision)
    return torch.unflatten(pairs, -1, matrix.shape[::2])


def read_out(h: Tensor, matrix: Tensor) -> Tensor:
    """Return the real part of a complex matrix (D, N, 2) times numbers (…, N, 2) -> (…, D)."""
    real, imaginary = matrix.unbind(-1)
    return F.linear(h.flatten(-2).to(matrix.dtype), torch.stack([real, -imaginary], dim=-1).flatten(1))


def scan(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute h_t = decay * h_{t-1} + drive_t: decay (N, P), drive (B, T, N, P), state (B, N * P), reset (B, T).

    Returns:
        h (B, T, N, P) and the last state (B, N * P).
    """
    everywhere = (*drive.shape[:2], -1)
    if drive.shape[-1] == 1:
        h, last = linear_scan(decay.squeeze(-1).expand(everywhere), drive.squeeze(-1), state, reset)
        return h.unsqueeze(-1), last
    if state is not None:
        # Not a view: a state may be columns of a wider tensor, at an odd offset.
        state = torch.complex(*state.to(drive.dtype).unflatten(1, (-1, 2)).unbind(-1))
    drive = torch.view_as_complex(drive.contiguous())
    h, last = linear_scan(torch.view_as_complex(decay).expand(everywhere), drive, state, reset)
    return torch.view_as_real(h), torch.view_as_real(last).flatten(1)


def step(decay: Tensor, drive: Tensor, state: Tensor) -> Tensor:
    """Compute one step in real arithmetic: decay (N, P), drive (B, N, P), state (B, N * P) -> h (B, N, P)."""
    return multiply(decay, state.to(drive.dtype).unflatten(1, decay.shape)) + drive
