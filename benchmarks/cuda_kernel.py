"""The CUDA kernels: registers and instructions, on any machine with Triton; on a GPU, their speed against peers.

    python benchmarks/cuda_kernel.py [--compile-only] [--capability 80 90] [--recurrence minGRU] [--rounds 20]
        [--markdown FILE] [--json FILE]

All kernels are compiled; the table has registers per thread, spills (loads and stores of local memory), shared memory
of a program, loads from global memory of 128 bits, and instructions per element of the widest loop. Forward and
backward are timed, interleaved, by CUDA events: the scan against a copy of the bytes that it must move, and the layer
(Linear and scan) against cuDNN's nn.GRU and nn.LSTM. Figures are ratios of medians.

Shapes: B batch, T time, D width, P parts of the gates (1: linear, 2: minGRU, 3: minLSTM).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minrl.kernels.scan import cuda
from minrl.scan import kernel_for, mingru_scan, minlstm_scan
from minrl.system.files import replacing

RECURRENCES = {1: "linear", 2: "minGRU", 3: "minLSTM"}
# float16 compiles as bfloat16 does.
PRECISIONS = {"bfloat16": "*bf16", "float32": "*fp32"}
KERNELS = ("forward", "forward_totals", "backward", "backward_totals")
IN_PRECISION = {"gates", "drive", "h", "dh", "dgates", "ddrive"}
IN_FLOAT32 = {"state", "last", "dlast", "dstate", "totals"}


def compile_for(capability: int, kernel: str, parts: int, precision: str, is_cut: bool) -> dict[str, Any]:
    """Compile one kernel with state and resets, for widths that are multiples of 16; return its row."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from minrl.kernels.scan import cuda_loops

    function = getattr(cuda_loops, kernel)
    options = {"PARTS": parts, "CANDIDATE": "positive", "SIGNED": False}
    constants: dict[str, Any] = {**options, "ROWS": cuda.ROWS, "LANES": cuda.LANES, "STAGES": cuda.STAGES}
    types = {"reset": "*u8", "steps": "i32", "width": "i32", "length": "i32", "plane": "i32"}
    types |= dict.fromkeys(IN_PRECISION, PRECISIONS[precision]) | dict.fromkeys(IN_FLOAT32, "*fp32")
    absent = {"drive", "ddrive"} if parts > 1 else set()
    if not is_cut:
        absent.add("totals")
    names = function.arg_names
    given = {name for name in names if name in types and name not in absent}
    signature = {name: types[name] if name in given else "constexpr" for name in names}
    aligned = {name for name in given if types[name].startswith("*")} | {"width"}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned}
    source = ASTSource(function, signature, {n: constants.get(n) for n in names if n not in given}, attributes)
    compiled = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": cuda.WARPS})
    used, code = disassembled(compiled.asm["cubin"])
    loops = [end - begin for begin, end in backward_jumps(code)]
    return {
        "capability": capability,
        "kernel": kernel,
        "recurrence": RECURRENCES[parts],
        "precision": precision,
        "time": "cut" if is_cut else "whole",
        "registers": used,
        "spills": sum(bool(re.search(r"\b(LDL|STL)\b", line)) for line in code),
        "shared bytes": compiled.metadata.shared,
        "wide loads": sum(bool(re.search(r"\bLDG(STS)?\.\S*\b128\b", line)) for line in code),
        "instructions": round(max(loops) * 32 * cuda.WARPS / (cuda.ROWS * cuda.LANES), 1),
    }


def disassembled(cubin: bytes) -> tuple[int, list[str]]:
    """Run Triton's disassemblers; return registers per thread, lines of machine code with labels."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage, code = (
            subprocess.run([tools / tool, option, file], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    found = re.search(r"REG:(\d+)", usage)
    assert found, usage
    return int(found[1]), [line for line in code.splitlines() if re.match(r"\s+/\*[0-9a-f]{4,}\*/|\.L_", line)]


def backward_jumps(code: list[str]) -> list[tuple[int, int]]:
    """Find loops, as the numbers of instructions before their begin and before their end."""
    labels: dict[str, int] = {}
    loops, count = [], 0
    for line in code:
        if line.startswith(".L_"):
            labels[line.split(":")[0]] = count
            continue
        count += 1
        jump = re.search(r"BRA.*`\((\.L_\w+)\)", line)
        if jump and jump[1] in labels:
            loops.append((labels[jump[1]], count))
    return loops


def compiled_table(capabilities: list[int], recurrences: list[str]) -> list[dict[str, Any]]:
    """Compile all kernels that run, `forward` and `backward`, for time whole and in chunks."""
    return [
        compile_for(capability, kernel, parts, precision, is_cut)
        for capability in capabilities
        for precision in PRECISIONS
        for parts, name in RECURRENCES.items()
        if name in recurrences
        for kernel in KERNELS
        for is_cut in ((False, True) if kernel in ("forward", "backward") else (True,))
    ]


def timed(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Measure median milliseconds, interleaved by rounds, after three uncounted rounds."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 3):
        for name, task in tasks.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            task()
            end.record()
            end.synchronize()
            if number >= 3:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def gradient(output: Tensor, leaves: list[Tensor]) -> None:
    torch.autograd.grad(output, leaves, torch.ones_like(output))


def scan_over_copy(parts: int, precision: torch.dtype, rounds: int) -> dict[str, float]:
    """Compare the scan with a copy of the same bytes, at B T D = 64 4096 256, with resets."""
    batch, steps, width = 64, 4096, 256
    scan = mingru_scan if parts == 2 else minlstm_scan
    gates = torch.randn(batch, steps, parts * width, device="cuda", dtype=precision).requires_grad_()
    reset = torch.rand(batch, steps, device="cuda") < 0.01
    assert kernel_for(gates) == "cuda"
    numbers = batch * steps * width
    # Forward reads the gates and writes h; backward reads gates, h and its gradient and writes that of the gates.
    source = torch.empty(numbers * (3 * parts + 3) // 2, device="cuda", dtype=precision)
    part = numbers * (parts + 1) // 2
    target = torch.empty_like(source)
    times = timed(
        {
            "copy forward": lambda: target[:part].copy_(source[:part]),
            "forward": lambda: scan(gates.detach(), None, reset),
            "copy both": lambda: target.copy_(source),
            "both": lambda: gradient(scan(gates, None, reset)[0], [gates]),
        },
        rounds,
    )
    return {"forward": times["forward"] / times["copy forward"], "both": times["both"] / times["copy both"]}


def layer_over_peers(steps: int, precision: torch.dtype, rounds: int) -> dict[str, float]:
    """Compare cuDNN's layers with ours, forward and backward, at B D = 64 256, without resets."""
    width = 256
    x = torch.randn(64, steps, width, device="cuda", dtype=precision).requires_grad_()
    peers = {"nn.GRU": nn.GRU, "nn.LSTM": nn.LSTM}
    tasks: dict[str, Callable[[], object]] = {}
    for name, peer in peers.items():
        layer = peer(width, width, batch_first=True).to("cuda", precision)
        tasks[name] = lambda layer=layer: gradient(layer(x)[0], [x, *layer.parameters()])
    for parts, scan in ((2, mingru_scan), (3, minlstm_scan)):
        linear = nn.Linear(width, parts * width).to("cuda", precision)
        tasks[RECURRENCES[parts]] = lambda linear=linear, scan=scan: gradient(
            scan(linear(x))[0], [x, *linear.parameters()]
        )
    times = timed(tasks, rounds)
    return {f"{peer} / {own}": times[peer] / times[own] for peer in peers for own in ("minGRU", "minLSTM")}


def speed_table(rounds: int) -> dict[str, dict[str, float]]:
    """Measure all ratios on this machine's GPU."""
    found = {}
    for name in ("bfloat16", "float32"):
        precision = getattr(torch, name)
        for parts in (2, 3):
            found[f"{RECURRENCES[parts]} {name}, scan / copy, 64 x 4096 x 256"] = scan_over_copy(
                parts, precision, rounds
            )
        for steps in (512, 4096):
            found[f"layers {name}, 64 x {steps} x 256"] = layer_over_peers(steps, precision, rounds)
    return found


def markdown(result: dict[str, Any]) -> str:
    """Format the tables as a page."""
    import triton

    rows = result["compiled"]
    text = [
        "# The CUDA kernels",
        "",
        "Written by `python benchmarks/cuda_kernel.py --markdown benchmarks/cuda_kernel.md`. "
        f"Compiled by Triton {triton.__version__} without a GPU, with state and resets, for widths that are multiples "
        f"of 16; tiles of {cuda.ROWS} steps x {cuda.LANES} lanes, {cuda.WARPS} warps, {cuda.STAGES} stages. Spills are "
        "loads and stores of local memory, instructions those of the main loop per element of h.",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|" + " --- |" * len(rows[0]),
        *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows),
    ]
    if speeds := result.get("speed"):
        text += [
            "",
            f"## Speed on {result['device']}, torch {torch.__version__}",
            "",
            "| run | ratio |",
            "| --- | --- |",
        ]
        text += [f"| {run}: {name} | {ratio:.2f} |" for run, ratios in speeds.items() for name, ratio in ratios.items()]
    else:
        text += ["", "Speed has not been measured: there was no GPU where this page was written."]
    return "\n".join(text) + "\n"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--capability", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--recurrence", nargs="+", choices=[*RECURRENCES.values()], default=[*RECURRENCES.values()])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        sys.exit("cuda_kernel.py: unset TRITON_INTERPRET, which leaves nothing to compile")
    try:
        import triton  # noqa: F401
    except ImportError:
        sys.exit("cuda_kernel.py: Triton is not installed; pip install triton (Linux)")
    result: dict[str, Any] = {"compiled": compiled_table(arguments.capability, arguments.recurrence)}
    if torch.cuda.is_available() and not arguments.compile_only:
        result |= {"device": torch.cuda.get_device_name(), "speed": speed_table(arguments.rounds)}
    page = markdown(result)
    print(page)
    for file, text in ((arguments.markdown, page), (arguments.json, json.dumps(result, indent=1) + "\n")):
        if file:
            with replacing(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
