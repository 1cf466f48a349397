"""Features of images of any size: Stable-Baselines3's `NatureCNN`, and a small network for smaller images.

Shapes: B environments, C channels, H and W pixels, F features.
"""

from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import Tensor, nn

from minrl.data.spaces import AnySpace
from minrl.system.names import nearest

CNN = Literal["auto", "nature", "small"]
# The kernels 8, 4 and 3 with strides 4, 2 and 1 leave one pixel of 36 (Mnih et al. 2015, "Human-level control through
# deep reinforcement learning", Nature 518, Methods: model architecture).
NATURE_SIDE = 36


class SmallCNN(NatureCNN):
    """Three padded 3 x 3 convolutions, of which the last two halve the image, for images down to a single pixel.

    Args:
        observation_space: a Box (C, H, W) of bytes.
        features_dim: F.
        normalized_image: skip the check for bytes, as in Stable-Baselines3.

    Raises:
        ValueError: for a space that is no image.
    """

    def __init__(self, observation_space: AnySpace, features_dim: int = 512, normalized_image: bool = False) -> None:
        if not is_image_space(observation_space, normalized_image=normalized_image):
            raise ValueError(f"images are a Box (C, H, W) of bytes from 0 to 255, got {observation_space}")
        # NatureCNN.__init__ would build layers that do not fit; only its forward pass is used.
        BaseFeaturesExtractor.__init__(self, observation_space, features_dim)
        channels, height, width = observation_space.shape or ()
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        pixels = -(-height // 4) * -(-width // 4)
        self.linear = nn.Sequential(nn.Linear(64 * pixels, features_dim), nn.ReLU())


class OnImages:
    """Mixin of a policy on images.

    Args:
        observation_space, arguments, keywords: as for the policy.
        cnn: the network for images, see `image_network`.
        features_extractor_class: another network than those.
    """

    def __init__(
        self,
        observation_space: Any,
        *arguments: Any,
        cnn: CNN = "auto",
        features_extractor_class: Any = None,
        **keywords: Any,
    ) -> None:
        if features_extractor_class is None:
            features_extractor_class = image_network(observation_space, cnn)
        keywords["features_extractor_class"] = features_extractor_class
        super().__init__(observation_space, *arguments, **keywords)  # type: ignore[call-arg]


class OnParts:
    """Mixin of a policy on Dict observations.

    Args:
        arguments, keywords: as for the policy.
        cnn: the network for images among them, see `image_network`.
        features_extractor_class: another extractor than `PartsExtractor`.
    """

    def __init__(
        self,
        *arguments: Any,
        cnn: CNN = "auto",
        features_extractor_class: Any = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **keywords: Any,
    ) -> None:
        keywords["features_extractor_class"] = features_extractor_class or PartsExtractor
        keywords["features_extractor_kwargs"] = with_network(features_extractor_kwargs, cnn)
        super().__init__(*arguments, **keywords)


def image_network(observation_space: AnySpace, cnn: CNN = "auto") -> type[NatureCNN]:
    """Choose the class of network for one image.

    Args:
        observation_space: a Box (C, H, W).
        cnn: "nature" (`NatureCNN`, from 36 x 36 pixels on), "small" (`SmallCNN`), or "auto": small below that size.

    Raises:
        ValueError: for an unknown network, or an image that is too small for the one named.
    """
    if cnn not in get_args(CNN):
        raise ValueError(f'cnn: unknown network "{cnn}"; {nearest(str(cnn), get_args(CNN))}')
    side = min((observation_space.shape or ())[1:], default=NATURE_SIDE)
    if cnn == "nature" and side < NATURE_SIDE:
        raise ValueError(
            f'cnn "nature" needs images of {NATURE_SIDE} x {NATURE_SIDE} pixels or more, got one of shape '
            f'{observation_space.shape} (channels first); take "auto" or "small"'
        )
    return SmallCNN if cnn == "small" or side < NATURE_SIDE else NatureCNN


class PartsExtractor(CombinedExtractor):
    """Stable-Baselines3's `CombinedExtractor` with a network for each image as `image_network` chooses it.

    Features lie side by side in the order of the keys; parameters have the names of `CombinedExtractor`'s.

    Args:
        observation_space: a Dict.
        cnn_output_dim: F of each image.
        normalized_image: skip the check for bytes, as in Stable-Baselines3.
        cnn: as for `image_network`.

    Raises:
        ValueError: as `image_network`.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
        cnn: CNN = "auto",
    ) -> None:
        parts = observation_space.spaces
        images = {key: part for key, part in parts.items() if is_image_space(part, normalized_image=normalized_image)}
        widths = [cnn_output_dim if key in images else get_flattened_obs_dim(part) for key, part in parts.items()]
        # CombinedExtractor.__init__ supports NatureCNN alone.
        BaseFeaturesExtractor.__init__(self, observation_space, int(sum(widths)))
        self.keys = list(parts)
        self.extractors = nn.ModuleDict(
            {
                key: image_network(part, cnn)(part, cnn_output_dim, normalized_image=normalized_image)
                for key, part in images.items()
            }
        )

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return the features (B, F) of a batch of each part."""
        features: list[Any] = [
            self.extractors[key](observations[key]) if key in self.extractors else observations[key].flatten(1)
            for key in self.keys
        ]
        return torch.cat(features, dim=1)


def with_network(keywords: dict[str, Any] | None, cnn: CNN) -> dict[str, Any] | None:
    """Return an extractor's keywords, with the network if it is not chosen by size.

    An extractor of the user's own need not know the keyword.
    """
    return keywords if cnn == "auto" else {**(keywords or {}), "cnn": cnn}
