"""The compiled matmul of a few rows with a linear layer's weights, against float64."""

import numpy as np
import pytest

numba = pytest.importorskip("numba")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("size", [1, 11, 16, 40, 100, 128])
def test_any_rows_sizes_and_outputs(rows: int, size: int) -> None:
    from minrl.kernels.backbone.gemv import linear

    generator = np.random.default_rng(rows * size)
    for outputs in (1, 3, 4, 7, 16, 33, 64):
        for bias_size in (0, outputs):
            x = generator.standard_normal((rows, size), np.float32)
            weight = generator.standard_normal((outputs, size), np.float32)
            bias = generator.standard_normal(bias_size, np.float32)
            y = np.full(rows * outputs + 5, 7.0, np.float32)
            linear(x.reshape(-1), weight.reshape(-1), bias, y, rows, size, outputs)
            wanted = x.astype(np.float64) @ weight.T.astype(np.float64) + (bias if bias_size else 0.0)
            assert np.abs(y[: rows * outputs].reshape(rows, outputs) - wanted).max() <= 2e-5
            assert (y[rows * outputs :] == 7).all()  # nothing is written beyond the result


def test_scratch_lies_on_cache_lines() -> None:
    from minrl.kernels.backbone.gemv import aligned

    for size in (1, 15, 16, 17, 1000):
        room = aligned(size)
        assert room.size == size
        assert room.ctypes.data % 64 == 0


def test_every_lane_of_a_vector_of_another_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a processor with vectors of eight elements, and one of unknown kind."""
    import importlib.util
    import sys

    from llvmlite import binding

    from minrl.kernels.backbone import gemv

    def unknown() -> None:
        raise RuntimeError("host cpu features are not known")

    monkeypatch.setattr(binding, "get_host_cpu_features", unknown)
    spec = importlib.util.spec_from_file_location("product_of_eight", gemv.__file__)
    assert spec is not None
    assert spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "product_of_eight", other)
    spec.loader.exec_module(other)
    assert other.LANES == 8
    generator = np.random.default_rng(0)
    for rows, size, outputs in ((1, 9, 11), (7, 24, 13)):
        x = generator.standard_normal((rows, size), np.float32)
        weight = generator.standard_normal((outputs, size), np.float32)
        y = np.zeros(rows * outputs, np.float32)
        other.linear(x.reshape(-1), weight.reshape(-1), x[:0, 0], y, rows, size, outputs)
        assert np.abs(y.reshape(rows, outputs) - x.astype(np.float64) @ weight.T.astype(np.float64)).max() <= 2e-5
