"""Graph of an agent's step with the shape of every tensor and the value of every constant, for a batch of one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Node:
    """Operator of the graph."""

    kind: str
    inputs: tuple[str, ...]  # "" for an input that is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: Any


@dataclass(frozen=True)
class Graph:
    """Nodes that depend on the inputs, in order, and an example of every tensor.

    `examples` hold the values of constants; of other tensors only shape and type count.
    """

    nodes: tuple[Node, ...]
    examples: dict[str, Array]
    constants: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(np.shape(self.examples[name]))

    def size(self, name: str) -> int:
        """Return the number of elements of a tensor."""
        return int(np.size(self.examples[name]))

    def constant(self, name: str) -> Array:
        """Return the value of a constant.

        Raises:
            ValueError: if the tensor depends on the inputs.
        """
        if name not in self.constants:
            raise ValueError("an operand that would have to be known beforehand depends on the inputs")
        return np.asarray(self.examples[name])


def read_graph(model: Any) -> Graph:
    """Evaluate an ONNX model for inputs of zeros with a batch of one, and keep the nodes that depend on the inputs."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    feeds = {}
    for value in model.graph.input:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = np.zeros([d.dim_value or 1 for d in value.type.tensor_type.shape.dim], kind)
    examples: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    with np.errstate(all="ignore"):
        found: Any = ReferenceEvaluator(model).run(None, feeds, intermediate=True)
    examples |= {name: np.asarray(value) for name, value in found.items() if name and value is not None}
    constants, nodes = {t.name for t in model.graph.initializer}, []
    for node in model.graph.node:
        made = Node(
            node.op_type,
            tuple(node.input),
            tuple(name for name in node.output if name),
            {a.name: helper.get_attribute_value(a) for a in node.attribute},
            node,
        )
        # With the batch fixed, shapes are constants.
        if node.op_type == "Shape" or all(name in constants for name in node.input if name):
            constants |= set(made.outputs)
        else:
            nodes.append(made)
    names = tuple(value.name for value in model.graph.input), tuple(value.name for value in model.graph.output)
    return Graph(tuple(nodes), examples, frozenset(constants), *names)


def moved(graph: Graph, node: Node, name: str) -> list[Array]:
    """Return for each output of a node that only moves elements of `name` their flat indices in it."""
    from onnx.reference import ReferenceEvaluator

    places = np.arange(graph.size(name), dtype=np.int64).reshape(graph.shape(name))
    feeds = {other: places if other == name else graph.constant(other) for other in node.inputs if other}
    found: Any = ReferenceEvaluator(node.proto).run(None, feeds)
    return [np.asarray(places) for places in found]
