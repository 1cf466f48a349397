"""Elements of tensors as C expressions.

A tensor is a slice of a buffer, a table of constants, or an expression that is not written down before an operator
reads it: chains of elementwise operators become one loop.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from math import prod

import numpy as np

from minrl.export.c.expressions import ELEMENTWISE, HELPERS, SETTINGS, c_type, extreme, number
from minrl.export.c.graph import Array, Graph, Node
from minrl.export.c.memory import Place, broadcast


@dataclass(frozen=True)
class Lazy:
    """Elementwise operator that is not written yet."""

    node: Node
    name: str


@dataclass
class Program:
    """Statements of the function, tables of constants, and helpers that they call."""

    statements: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)


class Elements:
    """Tensors of `graph`; its inputs and outputs are C arrays of the given names."""

    def __init__(self, graph: Graph, arrays: dict[str, str]) -> None:
        self.graph, self.arrays = graph, arrays
        self.program = Program()
        self.places: dict[str, Place | Lazy] = {name: Place(arrays[name]) for name in graph.inputs}
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.uses.update(graph.outputs)
        self.count = 0

    def _element(self, name: str, index: str, shape: tuple[int, ...]) -> str:
        """Return the expression of a tensor's element that belongs to flat `index` of an output of `shape`."""
        graph = self.graph
        own, value = graph.shape(name), graph.examples.get(name)
        index = broadcast(own, shape, index)
        if name in graph.constants:
            assert value is not None
            flat = np.asarray(value).reshape(-1)
            if flat.size and (flat == flat[0]).all():
                return number(flat[0])
            return Place(self._table(flat)).at(index)
        place = self.places[name]
        if isinstance(place, Lazy):
            if prod(own) == prod(shape):
                return self._expression(place.node, index, own)
            place = self._place(name)
        return place.at(index)

    def _expression(self, node: Node, index: str, shape: tuple[int, ...]) -> str:
        graph, example = self.graph, self.graph.examples[node.outputs[0]]
        operands = [self._element(name, index, shape) for name in node.inputs if name]
        kind, of_input = c_type(example), c_type(graph.examples[node.inputs[0]])
        if node.kind in ("Max", "Min"):
            return self._helped(extreme("larger" if node.kind == "Max" else "smaller", kind, operands))
        if node.kind == "Clip":
            present = [bool(name) for name in node.inputs[1:]]
            found, rest = operands[0], operands[1:]
            for name, is_there in zip(("larger", "smaller"), present, strict=False):
                found = extreme(name, kind, [found, rest.pop(0)]) if is_there else found
            return self._helped(found)
        if node.kind == "Cast":
            test = f"({operands[0]} != 0)" if kind == "unsigned char" else f"({kind}){operands[0]}"
            return operands[0] if kind == of_input else test
        if node.kind == "Sigmoid" and (gates := self._share(node.inputs[0])):
            return self._helped(f"share({', '.join(self._element(name, index, shape) for name in gates)})")
        # The last operand has the type in which the operator computes: the first of Where is a condition.
        real = c_type(graph.examples[[name for name in node.inputs if name][-1]])
        if node.kind in SETTINGS:
            name, defaults = SETTINGS[node.kind]
            settings = [number(np.float32(node.attributes.get(key, value))) for key, value in defaults.items()]
            return self._helped(f"{name}({', '.join([*operands, *settings])})")
        if node.kind == "Round" and real == "int":
            return operands[0]
        if node.kind == "Where" and real == "float" and any(self._is_lazy(name) for name in node.inputs[1:]):
            return self._helped(f"either({', '.join(operands)})")
        found = ELEMENTWISE[node.kind]("f" if real == "float" else "", *operands)
        if real == "double" and node.kind in ("Sigmoid", "Softplus", "Relu"):
            raise ValueError(f"there is no C for {node.kind} in float64")
        return self._helped(found)

    def _share(self, name: str) -> list[str] | None:
        """Return the gates i and f if a tensor is log sigmoid(i) - log sigmoid(f), minLSTM's logit of i / (f + i)."""
        found: list[str] = []
        for logarithm in self._source(name, "Sub"):
            for gate in self._source(logarithm, "Log"):
                found += self._source(gate, "Sigmoid")
        return found if len(found) == 2 else None

    def _source(self, name: str, kind: str) -> tuple[str, ...]:
        """Return the inputs of the operator that a tensor comes from, if it is of `kind` and not written yet."""
        place = self.places.get(name)
        return place.node.inputs if isinstance(place, Lazy) and place.node.kind == kind else ()

    def _is_lazy(self, name: str) -> bool:
        return isinstance(self.places.get(name), Lazy)

    def _helped(self, text: str) -> str:
        self.program.helpers |= set(re.findall(r"\b(\w+)\(", text)) & set(HELPERS)
        if self.program.helpers & {"sigmoid", "tangent", "share"}:
            self.program.helpers.add("exponential")
        if "share" in self.program.helpers:
            self.program.helpers |= {"larger", "smaller"}
        return text

    def _place(self, name: str) -> Place:
        """Return where a tensor lies; write it down if it is an expression or a constant."""
        if name in self.graph.constants:
            return Place(self._table(np.asarray(self.graph.examples[name]).reshape(-1)))
        place = self.places[name]
        if isinstance(place, Place):
            return place
        shape = self.graph.shape(name)
        text = self._expression(place.node, "i" if prod(shape) > 1 else "0", shape)
        made = self._buffer(name)
        self._loop(prod(shape), f"{made.at('i' if prod(shape) > 1 else '0')} = {text};")
        self.places[name] = made
        return made

    def _buffer(self, name: str) -> Place:
        self.count += 1
        kind = {"float": "w", "double": "d", "unsigned char": "t"}.get(c_type(self.graph.examples[name]), "k")
        return Place(f"<{kind}{self.count}:{self.graph.size(name)}>")

    def _table(self, values: Array) -> str:
        """Return the name of a table of constants."""
        kind = c_type(values)
        text = f"{kind} NAME[{values.size}] = {{{', '.join(number(v) for v in values)}}};"
        if text not in self.program.tables:
            self.program.tables[text] = f"c{len(self.program.tables)}"
        return self.program.tables[text]

    def _loop(self, size: int, body: str) -> None:
        head = f"for (int i = 0; i < {size}; i++) " if re.search(r"\bi\b", body) else ""
        self.program.statements.append(head + body)

    def _call(self, name: str, arguments: str) -> None:
        self.program.helpers.add(name)
        self.program.statements.append(f"{name}({arguments});")
