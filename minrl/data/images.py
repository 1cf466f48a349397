"""Images that Minari stores as JPEG, back to flat rows.

Shapes: T frames, P numbers in one frame (height x width x channels).
"""

import io
from collections.abc import Sequence

import numpy as np

from minrl.data.episode import FloatArray
from minrl.data.spaces import AnySpace, Leaf


def is_image(space: AnySpace) -> bool:
    """Whether Minari may have stored this space as JPEG."""
    from minari.dataset.minari_storage import is_image_space

    return bool(is_image_space(space))


def decode_frames(frames: Sequence[bytes], leaf: Leaf, where: str) -> FloatArray:
    """JPEG frames as (T, P) float32 in 0 to 255; raises ValueError where one is damaged or of another size."""
    from PIL import Image

    result = np.empty((len(frames), leaf.raw_width), dtype=np.float32)
    step = 0
    try:
        for step, frame in enumerate(frames):
            result[step] = np.asarray(Image.open(io.BytesIO(frame))).reshape(-1)
    except Exception as error:
        raise ValueError(f"{where}: step {step} is not a JPEG image of shape {leaf.space.shape}") from error
    return result
