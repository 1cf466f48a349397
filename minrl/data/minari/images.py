"""Decoding of images that Minari stores as JPEG.

Shapes: T frames, P elements of one frame (height x width x channels).
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from minrl.data.spaces import AnySpace, Leaf


def is_image(space: AnySpace) -> bool:
    """Return True if Minari may have stored this space as JPEG."""
    from minari.dataset.minari_storage import is_image_space

    return bool(is_image_space(space))


def decode_frames(frames: Sequence[bytes], leaf: Leaf, where: str) -> npt.NDArray[np.uint8]:
    """Decode JPEG frames to bytes, (T, P); raise ValueError if one is damaged or of another size."""
    from PIL import Image

    result = np.empty((len(frames), leaf.raw_width), dtype=np.uint8)
    step = 0
    try:
        for step, frame in enumerate(frames):
            with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
                # Before it is decoded: a kilobyte may declare four billion pixels.
                if image.width * image.height * len(image.getbands()) != leaf.raw_width:
                    raise ValueError("another size")
                result[step] = np.asarray(image).reshape(-1)
    except Exception as error:
        raise ValueError(f"{where}: step {step} is not a JPEG image of shape {leaf.space.shape}") from error
    return result
