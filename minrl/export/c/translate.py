"""Translation of a graph to the statements of one C function.

Elementwise operators are expressions (`elements.py`), slices and reshapes nothing at all; the rest is written here.
Buffers share one workspace by their lifetimes (`memory.py`).
"""

from math import prod

import numpy as np

from minrl.export.c.elements import Lazy, Program
from minrl.export.c.expressions import ELEMENTWISE, SETTINGS, c_type, number
from minrl.export.c.graph import Node, moved
from minrl.export.c.memory import Place
from minrl.export.c.products import Products

MOVING = ("Reshape", "Unsqueeze", "Squeeze", "Slice", "Split", "Transpose", "Expand", "Flatten", "Identity")


class Translation(Products):
    """Translation of a graph, node by node.

    Raises:
        ValueError: for an operator that has no translation.
    """

    def run(self) -> Program:
        """Translate all nodes; outputs are written last, as they may share arrays with inputs."""
        for node in self.graph.nodes:
            self._translate(node)
        # Each into a buffer first: one output may be read to write another.
        held = [(name, self._place(name)) for name in self.graph.outputs]
        for name, place in held:
            if self.arrays[name]:
                size = self.graph.size(name)
                self._loop(size, f"{Place(self.arrays[name]).at('i')} = {place.at('i')};")
        return self.program

    def _translate(self, node: Node) -> None:
        kind = node.kind
        if node.outputs[0] in self.places:
            return  # a sum of products
        if kind in ELEMENTWISE or kind in SETTINGS or kind in ("Max", "Min", "Clip", "Cast"):
            self.places[node.outputs[0]] = Lazy(node, node.outputs[0])
            if self.uses[node.outputs[0]] > 1:
                self._place(node.outputs[0])
        elif kind in MOVING or (kind == "Gather" and node.inputs[1] in self.graph.constants):
            self._move(node)
        elif (write := getattr(self, f"_{kind.lower()}", None)) is not None:
            write(node)
        else:
            reason = ", a convolution over images" if kind == "Conv" else ""
            raise ValueError(f"there is no C for ONNX's operator {kind}{reason}; write it with --onnx")

    def _move(self, node: Node) -> None:
        """Make an alias of the elements that a node moves if they stay side by side; else copy them."""
        name = node.inputs[0]
        source = self._place(name)
        for output, places in zip(node.outputs, moved(self.graph, node, name), strict=True):
            flat = places.reshape(-1)
            if flat.size == 0 or (np.diff(flat) == 1).all():
                self.places[output] = Place(source.array, source.offset + (int(flat[0]) if flat.size else 0))
                continue
            made = self._buffer(output)
            steps = np.diff(flat)
            index = f"{self._table(flat)}[i]"
            if (steps == steps[0]).all():
                index = f"{flat[0]} + i * {steps[0]}" if steps[0] else str(flat[0])
            self._loop(flat.size, f"{made.at('i')} = {source.at(index)};")
            self.places[output] = made

    def _concat(self, node: Node) -> None:
        names = list(node.inputs)
        offsets = np.cumsum([0, *(self.graph.size(name) for name in names)])
        parts = [
            np.arange(first, end).reshape(self.graph.shape(name))
            for name, first, end in zip(names, offsets[:-1], offsets[1:], strict=True)
        ]
        joined = np.concatenate(parts, axis=node.attributes["axis"]).reshape(-1)
        if (np.diff(joined) != 1).any():
            raise ValueError("there is no C for a concatenation that is not along the last axis")
        places = [(self._place(name), self.graph.size(name)) for name in names]
        made = self._buffer(node.outputs[0])
        for (place, size), first in zip(places, offsets[:-1], strict=True):
            if size:
                self._loop(size, f"{Place(made.array, int(first)).at('i')} = {place.at('i')};")
        self.places[node.outputs[0]] = made

    def _layernormalization(self, node: Node) -> None:
        shape = self.graph.shape(node.inputs[0])
        width = self.graph.size(node.inputs[1])
        x, scale = self._place(node.inputs[0]), self.graph.constant(node.inputs[1])
        bias = self.graph.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros_like(scale)
        made = self._buffer(node.outputs[0])
        tables = f"{self._table(scale.reshape(-1))}, {self._table(bias.reshape(-1))}"
        epsilon = number(np.float32(node.attributes.get("epsilon", 1e-5)))
        self._call("layer_norm", f"{x.pointer}, {tables}, {made.pointer}, {prod(shape) // width}, {width}, {epsilon}")
        self.places[node.outputs[0]] = made

    def _softmax(self, node: Node) -> None:
        shape = self.graph.shape(node.inputs[0])
        if node.attributes.get("axis", -1) not in (-1, len(shape) - 1):
            raise ValueError("there is no C for a softmax that is not along the last axis")
        x, made = self._place(node.inputs[0]), self._buffer(node.outputs[0])
        self._call("softmax", f"{x.pointer}, {made.pointer}, {prod(shape[:-1])}, {shape[-1]}")
        self.places[node.outputs[0]] = made

    def _reducesum(self, node: Node) -> None:
        self._reduce(node, "")

    def _reducemean(self, node: Node) -> None:
        self._reduce(node, " / {}")

    def _reducelogsumexp(self, node: Node) -> None:
        shape = self.graph.shape(node.inputs[0])
        if self._axes(node) != [len(shape) - 1]:
            raise ValueError("there is no C for a logarithm of sums that is not along the last axis")
        x, made = self._place(node.inputs[0]), self._buffer(node.outputs[0])
        self._call("log_sum_exp", f"{x.pointer}, {made.pointer}, {prod(shape[:-1])}, {shape[-1]}")
        self.places[node.outputs[0]] = made

    def _axes(self, node: Node) -> list[int]:
        """Return the axes that a node sums over, in order."""
        shape, given = self.graph.shape(node.inputs[0]), node.attributes.get("axes")
        if given is None and len(node.inputs) > 1 and node.inputs[1]:
            given = self.graph.constant(node.inputs[1]).tolist()
        return sorted(a % len(shape) for a in (range(len(shape)) if given is None else given))

    def _reduce(self, node: Node, divided: str) -> None:
        name, shape, axes = node.inputs[0], self.graph.shape(node.inputs[0]), self._axes(node)
        if axes != list(range(axes[0], axes[-1] + 1)):
            raise ValueError("there is no C for a sum over axes that do not lie side by side")
        count, inner = prod(shape[axes[0] : axes[-1] + 1]), prod(shape[axes[-1] + 1 :])
        kind, made = c_type(self.graph.examples[name]), self._buffer(node.outputs[0])
        index = f"(i / {inner} * {count} + r) * {inner} + i % {inner}"
        if inner in (1, self.graph.size(node.outputs[0])):  # all axes lie on one side of those that are summed
            index = f"i * {count} + r" if inner == 1 else f"r * {inner} + i"
        element = self._element(name, index, shape)
        share = divided.format(number(np.asarray(count, self.graph.examples[name].dtype)))
        lines = [
            f"for (int i = 0; i < {self.graph.size(node.outputs[0])}; i++) {{",
            f"    {kind} sum = 0;",
            f"    for (int r = 0; r < {count}; r++) sum += {element};",
            f"    {made.at('i')} = sum{share};",
            "}",
        ]
        self.program.statements.append("\n".join(lines))
        self.places[node.outputs[0]] = made

    def _argmax(self, node: Node) -> None:
        shape = self.graph.shape(node.inputs[0])
        axis = node.attributes.get("axis", 0) % len(shape)
        if prod(shape[axis + 1 :]) != 1:
            raise ValueError("there is no C for an argmax that is not along the last axis")
        if c_type(self.graph.examples[node.inputs[0]]) != "float":
            raise ValueError("there is no C for an argmax of whole numbers")
        x, made = self._place(node.inputs[0]), self._buffer(node.outputs[0])
        self.program.helpers.add("argmax")
        start = f"{x.pointer} + i * {shape[axis]}" if prod(shape[:axis]) > 1 else x.pointer
        index = "i" if prod(shape[:axis]) > 1 else "0"
        self._loop(prod(shape[:axis]), f"{made.at(index)} = argmax({start}, {shape[axis]});")
        self.places[node.outputs[0]] = made

    def _gather(self, node: Node) -> None:
        """Select rows of a table, such as the embedding of a time step."""
        table, index = self.graph.constant(node.inputs[0]), node.inputs[1]
        if node.attributes.get("axis", 0) != 0 or self.graph.size(index) != 1:
            raise ValueError("there is no C for this form of Gather")
        width = table[0].size
        row, made = self._place(index), self._buffer(node.outputs[0])
        element = Place(self._table(table.reshape(-1))).at(f"{row.at('0')} * {width} + i")
        self._loop(width, f"{made.at('i')} = {element};")
        self.places[node.outputs[0]] = made
