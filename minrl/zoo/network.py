"""Layers of a saved actor as a module: one step from a flat observation to the last hidden layer.

Shapes: B environments, O flat observation width, F features, S state size, H hidden width, L layers of an LSTM.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minrl.zoo.settings import ACTIVATIONS
from minrl.zoo.spaces import Part
from minrl.zoo.weights import NATURE, CnnSize, LinearSize, LstmSize


class Features(nn.Module):
    """Features of flat observations as Stable-Baselines3 lays them side by side: vectors, choices, networks of images.

    Args:
        parts: of the observation, in the order of the features.
        cnns: sizes of networks of images, by the names of their parts; other images are flat features.
        normalize_images: divide images of bytes by 255.
    """

    def __init__(self, parts: Sequence[Part], cnns: dict[str, CnnSize], normalize_images: bool) -> None:
        super().__init__()
        self.parts, self.normalize_images = tuple(parts), normalize_images
        self.cnns = nn.ModuleDict(
            {str(number): nature_cnn(cnns[part.name], part) for number, part in enumerate(parts) if part.name in cnns}
        )

    def forward(self, flat: Tensor) -> Tensor:
        """Compute features: (B, O) -> (B, F)."""
        return torch.cat([self._of(number, part, flat) for number, part in enumerate(self.parts)], dim=1)

    def _of(self, number: int, part: Part, flat: Tensor) -> Tensor:
        values = flat[:, part.first : part.last]
        if part.image is None:
            return values
        channels, height, width = part.image
        if part.channels_last:
            values = values.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        if part.bytes and self.normalize_images:
            values = values / 255.0
        if str(number) not in self.cnns:
            return values.flatten(1)
        features: Tensor = self.cnns[str(number)](values.reshape(-1, channels, height, width))
        return features


def nature_cnn(size: CnnSize, part: Part) -> nn.Sequential:
    """Build a NatureCNN of `size` for an image.

    Raises:
        ValueError: if the image has another size.
    """
    layers: list[nn.Module] = []
    sides = list(part.image or ())[1:]
    for (side, stride), before, after in zip(NATURE, size.channels, size.channels[1:], strict=False):
        layers += [nn.Conv2d(before, after, side, stride), nn.ReLU()]
        sides = [(pixels - side) // stride + 1 for pixels in sides]
    if min(sides) < 1 or size.channels[-1] * sides[0] * sides[1] != size.linear.inputs:
        raise ValueError(
            f"a network of {size.linear.inputs} values after its convolutions does not fit images of {part.image} "
            "(channels, height, width)"
        )
    return nn.Sequential(*layers, nn.Flatten(), linear(size.linear), nn.ReLU())


def linear(size: LinearSize) -> nn.Linear:
    """Build a linear layer."""
    return nn.Linear(size.inputs, size.outputs, bias=size.bias)


def hidden_layers(sizes: Sequence[LinearSize], activation: str) -> nn.Sequential:
    """Build linear layers, each with an activation of `ACTIVATIONS` after it."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [linear(size), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def lstm(size: LstmSize) -> nn.LSTM:
    """Build an LSTM."""
    return nn.LSTM(size.inputs, size.hidden, size.layers, bias=size.bias)


def lstm_step(module: nn.LSTM, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one step: (B, F), (B, 2LH) h | c of each layer in turn -> (B, H) and the next (B, 2LH)."""
    parts, after = state.chunk(2 * module.num_layers, dim=1), []
    for number, weights in enumerate(module.all_weights):
        x, c = torch.lstm_cell(x, parts[2 * number : 2 * number + 2], *weights)
        after += [x, c]
    return x, torch.cat(after, dim=1)
