"""`tune_cpu`: the memory of a large tensor is kept for the next one."""

import platform

import fresh
import pytest

PROGRAM = """
import resource, sys
import minrl
if sys.argv[1] == "tuned":
    assert minrl.tune_cpu() and minrl.tune_cpu()
import torch
def faults():
    for _ in range(20):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_page_faults_end() -> None:
    """Allocate twenty tensors of 80 MB: a fault for each page of each, or next to none."""
    faults = {}
    for name in ("plain", "tuned"):
        done = fresh.run(PROGRAM, name, check=True)
        faults[name] = int(done.stdout)
    assert faults["tuned"] < faults["plain"] / 50


def test_is_false_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    import minrl

    def missing(name: object) -> None:
        raise OSError("no library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert minrl.tune_cpu() is False
