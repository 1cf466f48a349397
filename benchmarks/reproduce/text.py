"""Characters of a text, the end held out as test.

Shapes: B batch, T time, N characters.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHIPPED = Path(__file__).with_name("data") / "as_you_like_it.txt"
# Share of the text that is trained on; the rest, its end, is the test.
TRAINED = 0.9


@dataclass(frozen=True)
class Text:
    """Text as indices of its characters."""

    training: Tensor  # (N,) int64
    test: Tensor  # (N,) int64
    vocabulary: int

    def batch(self, batch: int, steps: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Return characters (B, T) from random places of the training part, and the next characters (B, T)."""
        generator = np.random.default_rng((seed, step))
        starts = torch.from_numpy(generator.integers(0, len(self.training) - steps, batch))
        places = starts.unsqueeze(1) + torch.arange(steps + 1)
        return _shifted(self.training[places])

    def test_rows(self, steps: int) -> tuple[Tensor, Tensor]:
        """Return the whole test part in rows of T characters, and the next characters: (N / T, T) twice."""
        return _shifted(self.test.unfold(0, steps + 1, steps))


def _shifted(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def read(path: Path, steps: int) -> Text:
    """Read the text of a file, for rows of `steps` characters.

    Raises:
        ValueError: if the file is not UTF-8 or too short.
        OSError: if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); give another --text") from error
    trained = int(TRAINED * len(text))
    if len(text) - trained <= steps:
        least = 10 * (steps + 1)
        raise ValueError(
            f"{path} has {len(text)} characters: at least {least} are needed, so that the held-out tenth fills a row "
            f"of {steps}; give a longer --text"
        )
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    encoded = torch.tensor([numbers[character] for character in text])
    return Text(encoded[:trained], encoded[trained:], len(characters))
