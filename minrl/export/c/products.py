"""Products of a vector and a matrix of constants, and sums of two of them."""

import numpy as np

from minrl.export.c.elements import Elements
from minrl.export.c.graph import Array, Node
from minrl.export.c.memory import Place


class Products(Elements):
    """Translation of `Gemm` and `MatMul`.

    The sum of two products, such as an LSTM's of input and hidden state, is one: the second begins from the first.
    It saves a pass over the gates and their biases, 2 % of an LSTM's step.
    """

    def _product(self, node: Node) -> None:
        rows, bias = self._matrix(node)
        added = self._added(node)
        if added is None:
            self._linear(node, rows, Place(self._table(bias)), node.outputs[0])
            return
        other, total = added
        first = self.places.get(other.outputs[0])
        if isinstance(first, Place):
            self._linear(node, rows, first, total)
        else:  # this is the first of both
            self._linear(node, rows, Place(self._table(bias + self._matrix(other)[1])), node.outputs[0])

    _gemm = _matmul = _product

    def _linear(self, node: Node, rows: Array, start: Place, output: str) -> None:
        """Write y = W x + what lies at `start`, `rows` being W (out, in)."""
        out, width = rows.shape
        x, table, made = self._place(node.inputs[0]), self._table(rows.T.reshape(-1)), self._buffer(output)
        self._call("linear", f"{x.pointer}, {table}, {start.pointer}, {made.pointer}, {width}, {out}")
        self.places[output] = made

    def _matrix(self, node: Node) -> tuple[Array, Array]:
        """Return the matrix (out, in) and the bias (out,) of a product.

        Raises:
            ValueError: for a product of another form.
        """
        matrix, settings = self.graph.constant(node.inputs[1]), node.attributes
        if settings.get("transA") or settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1:
            raise ValueError("there is no C for this form of Gemm")
        if matrix.ndim != 2:
            raise ValueError("there is no C for a product of more than a vector and a matrix")
        rows = matrix if settings.get("transB") else matrix.T
        if self.graph.size(node.inputs[0]) != rows.shape[1] or rows.dtype != np.float32:
            raise ValueError("there is no C for a product of matrices, or one in float64")
        given = self.graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.float32(0)
        return rows, np.broadcast_to(given, (1, len(rows))).reshape(-1).astype(np.float32)

    def _added(self, node: Node) -> tuple[Node, str] | None:
        """Return the product that a product is added to and the name of their sum, if nothing else reads either."""
        name, nodes = node.outputs[0], self.graph.nodes
        total = next((reader for reader in nodes if name in reader.inputs), None)
        if total is None or total.kind != "Add" or any(self.uses[x] != 1 for x in total.inputs):
            return None
        other = next((maker for maker in nodes if maker is not node and maker.outputs[0] in total.inputs), None)
        if other is None or other.kind not in ("Gemm", "MatMul"):
            return None
        sizes = {self.graph.size(x) for x in (name, other.outputs[0], total.outputs[0])}
        return (other, total.outputs[0]) if len(sizes) == 1 else None
