"""Places of tensors in the arrays of the C function: indices, broadcasting, and one workspace for all buffers."""

import re
from dataclasses import dataclass
from math import prod

_BUFFER = re.compile(r"<(\w+):(\d+)>")


@dataclass(frozen=True)
class Place:
    """Tensor in memory: its C array and the offset of its first element."""

    array: str
    offset: int = 0

    def at(self, index: str) -> str:
        """Return the element at an index, itself an expression."""
        if index.isdigit():
            return f"{self.array}[{self.offset + int(index)}]"
        return f"{self.array}[{self.offset} + {index}]" if self.offset else f"{self.array}[{index}]"

    @property
    def pointer(self) -> str:
        """Return the address of the first element."""
        return f"{self.array} + {self.offset}" if self.offset else self.array


def broadcast(own: tuple[int, ...], shape: tuple[int, ...], index: str) -> str:
    """Return the flat index in a tensor of shape `own` for flat `index` of the shape that it is broadcast to."""
    if prod(own) == prod(shape):
        return index
    if prod(own) == 1:
        return "0"
    full = (1,) * (len(shape) - len(own)) + own
    if full[next(a for a, n in enumerate(full) if n > 1) :] == shape[next(a for a, n in enumerate(full) if n > 1) :]:
        return f"({index}) % {prod(own)}"
    terms, inner, step = [], 1, 1
    for n, of_own in zip(reversed(shape), reversed(full), strict=True):
        if of_own > 1:
            terms.append(f"({index}) / {inner} % {n} * {step}")
            step *= of_own
        inner *= n
    return " + ".join(terms)


def laid_out(statements: list[str]) -> tuple[list[str], dict[str, int]]:
    """Give the buffers of statements places in one array for each C type: the statements, and the arrays' sizes."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for place, statement in enumerate(statements):
        for name, size in _BUFFER.findall(statement):
            first.setdefault(name, place)
            last[name], sizes[name] = place, int(size)
    offsets: dict[str, int] = {}
    totals: dict[str, int] = {}
    for name in sorted(sizes, key=lambda n: (first[n], n)):
        living = sorted(
            (offsets[o], offsets[o] + sizes[o])
            for o in offsets
            if o[0] == name[0] and last[o] >= first[name] and first[o] <= last[name]
        )
        at = 0
        for begin, end in living:
            if at + sizes[name] <= begin:
                break
            at = max(at, end)
        offsets[name] = at
        totals[name[0]] = max(totals.get(name[0], 1), at + sizes[name])
    return [_BUFFER.sub(lambda m: f"({m[1][0]} + {offsets[m[1]]})", s) for s in statements], totals
