"""Sessions of ONNX files."""

from pathlib import Path
from typing import Any

import onnxruntime


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)
