"""Benchmark of recurrent PPO's update against its matrix products alone; the third table of `ppo_speed.py`.

The products are those of a minibatch forward and backward, of every linear layer and, step by step, of recurrent
weights, on operands that lie ready: torch's with `out=`, and those of our kernels in one compiled call. The faster of
the two is the limit.

Shapes: R rows, K inputs, M outputs.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from ppo_loops import native
from torch import Tensor, nn

from minrl.agents.ppo import RecurrentPPO
from minrl.kernels.ppo.matmul import product, product_address

N_ENVS, N_STEPS, BATCH, EPOCHS = 8, 128, 256, 10


class Update(NamedTuple):
    """A policy of one line of the table."""

    policy: str
    cell: str
    width: int


UPDATES = (
    *(Update("MlpPolicy", "mingru", width) for width in (64, 128, 256)),
    Update("MlpPolicy", "gru", 64),
    Update("MlpLstmPolicy", "lstm", 64),
)


class Product(NamedTuple):
    """Operands of y (R, M) = x (R, K) @ w (K, M), as they lie in memory: x or w may be a transposed view."""

    y: Tensor
    x: Tensor
    w: Tensor
    count: int = 1  # times that it is computed


def make(update: Update) -> RecurrentPPO:
    """Create a training in compiled environments that has one rollout."""
    kwargs = {"lstm_hidden_size": update.width} if update.policy == "MlpLstmPolicy" else update._asdict()
    kwargs.pop("policy", None)
    model = RecurrentPPO(
        update.policy, native(N_ENVS), n_steps=N_STEPS, batch_size=BATCH, n_epochs=EPOCHS, seed=0, device="cpu",
        policy_kwargs=kwargs,
    )  # fmt: skip
    return model.learn(N_ENVS * N_STEPS)


def products(policy: Any) -> list[Product]:
    """List the products of a minibatch; nothing reads the gradient to the policy's inputs."""
    found: list[Product] = []
    for name, module in policy.named_modules():
        if type(module) is nn.Linear:
            found += _layer(BATCH, module.in_features, module.out_features, not name.endswith("embed"))
        elif isinstance(module, nn.GRU | nn.LSTM):
            for number, (of_input, of_state, *_) in enumerate(module.all_weights):
                is_first = number == 0 and not name.startswith("trunk")
                found += _layer(BATCH, of_input.shape[1], of_input.shape[0], not is_first)
                found += _layer(BATCH // N_STEPS, of_state.shape[1], of_state.shape[0], True, N_STEPS)
    return found


def _layer(rows: int, inputs: int, outputs: int, passes_on: bool, steps: int = 1) -> list[Product]:
    """Return the products of a layer forward and backward, `steps` times but for the gradient to the weights."""
    weight, every = torch.randn(outputs, inputs), rows * steps
    x, y = torch.randn(rows, inputs), torch.randn(rows, outputs)
    found = [Product(torch.empty(rows, outputs), x, weight.t(), steps)]
    if passes_on:
        found.append(Product(torch.empty(rows, inputs), y, weight, steps))
    return [*found, Product(torch.empty(outputs, inputs), torch.randn(every, outputs).t(), torch.randn(every, inputs))]


def by_torch(found: Sequence[Product]) -> Callable[[], None]:
    """Return a function that computes the products by torch."""

    def run() -> None:
        for y, x, w, count in found:
            for _ in range(count):
                torch.mm(x, w, out=y)

    return run


@numba.njit
def _run(matmul: int, table: Any, like: Any) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    for i in range(len(table)):
        y, x, w, next_x, across, rows, inputs, outputs, count = table[i]
        for _ in range(count):
            product(matmul, y, x, w, 0, outputs, next_x, across, outputs, 0, rows, inputs, outputs, like)


def by_kernel(found: Sequence[Product]) -> Callable[[], None]:
    """Return a function that computes the products by our kernel in one call."""
    rows, kept = [], []
    for y, x, w, count in found:
        w = w.contiguous()  # the kernel reads its rows as vectors; the update's transposition is not counted
        kept.append(w)
        rows.append((y.data_ptr(), x.data_ptr(), w.data_ptr(), *x.stride(), *x.shape, w.shape[1], count))
    table, matmul = np.array(rows, np.int64), product_address(np.float32)

    def run() -> None:
        assert kept
        _run(matmul, table, np.float32(0))

    return run


def _timed(run: Callable[[], Any], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        run()
    return 1e3 * (time.process_time() - begin) / count


def compare_updates(updates: Sequence[Update], rounds: int) -> list[dict[str, Any]]:
    """Measure CPU ms of a minibatch in `rounds` interleaved rounds: of the update, and of its products by both."""
    results = []
    for update in updates:
        model = make(update)
        found = products(model.policy)
        minibatches = EPOCHS * N_ENVS * N_STEPS // BATCH
        runs = {"update": model.train, "torch": by_torch(found), "kernel": by_kernel(found)}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                spent = _timed(run, 5) / minibatches if name == "update" else _timed(run, 200)
                if number:  # the first one warms up
                    times[name].append(spent)
        medians = {name: statistics.median(spent) for name, spent in times.items()}
        best = min(("torch", "kernel"), key=medians.__getitem__)
        ratio = statistics.median(a / b for a, b in zip(times["update"], times[best], strict=True))
        flops = sum(2 * y.numel() * x.shape[1] * count for y, x, _, count in found)
        results.append({**update._asdict(), "ratio": ratio, "ms": medians, "flops": flops, "rounds_ms": times})
    return results


def lines_of(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return heads and lines of the table."""
    heads = ["policy", "cell", "width", "update, ms a minibatch", "products by torch, ms", "by our kernel, ms",
             "update ÷ products", "products, GFLOP"]  # fmt: skip
    lines = [
        [result["policy"], result["cell"], result["width"], *result["ms"].values(), result["ratio"],
         result["flops"] / 1e9] for result in results
    ]  # fmt: skip
    return heads, lines
