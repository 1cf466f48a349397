"""Mutation testing: the share of small faults in the source that the tests notice, by room.

    python benchmarks/mutants.py plant COPY --seed 0     # a copy of the checkout in which 200 faults lie dormant
    python benchmarks/mutants.py run COPY --out figures.json [--rooms ROOM ...] [pytest's arguments]

`plant` draws expressions in functions of the rooms and rewrites each as `(faulty if __mutant__(i) else right)`: another
operator of comparison or arithmetic, `and` for `or`, no `not` or sign, another constant, None returned. Docstrings,
annotations, messages of errors and what a compiler reads are left as they are. `run` imports everything once, notes
in a child process which tests come by which place, and forks a child for each fault, in which those tests run until
the first fails.
"""

import argparse
import ast
import json
import os
import random
import resource
import shutil
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

ROOMS = {room: f"minrl/{room}" for room in ("cells", "data", "online")} | {"scan": "minrl/scan.py", "agents": "agents"}
# The replacement of each operator.
COMPARISONS = {"Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "=="}
COMPARISONS |= {"Is": "is not", "IsNot": "is", "In": "not in", "NotIn": "in"}
OPERATORS = {"Add": "-", "Sub": "+", "Mult": "/", "Div": "*", "FloorDiv": "*", "Mod": "//", "Pow": "*", "BitAnd": "|"}
# Builtin of the planted tree: True if the fault is active; notes which test reaches it.
SWITCH = """import builtins as _b, os as _o
if not hasattr(_b, "__mutant__"):
    _b.__awake__, _b.__seen__ = int(_o.environ.get("MUTANT", -1)), set()
    def _mutant(number):
        if "MUTANT_LOG" in _o.environ and (number, _o.environ.get("MUTANT_TEST")) not in __seen__:
            __seen__.add((number, _o.environ.get("MUTANT_TEST")))
            with open(_o.environ["MUTANT_LOG"], "a") as log:
                log.write(f"{number}\\t{_o.environ.get('MUTANT_TEST')}\\n")
        return number == __awake__
    _b.__mutant__ = _mutant
"""
# Seconds that the chosen tests of a fault may take without it, and at most.
BUDGET_S, CPU_S = 8, 40


class Places(ast.NodeVisitor):
    """Visitor of the expressions of a file that a fault may replace, each with its replacement."""

    def __init__(self, text: str) -> None:
        self.text, self.inside, self.found = text, 0, list[tuple[ast.expr, str]]()
        self.visit(ast.parse(text))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside += 1
        for part in node.body:
            self.visit(part)
        self.inside -= 1

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            return
        if self.inside and (fault := self.fault(node)):
            self.found.append(fault)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list", "type_params"):
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.AST):
                        self.visit(part)

    def fault(self, node: ast.AST) -> tuple[ast.expr, str] | None:
        def of(part: ast.expr) -> str:
            return f"({ast.get_source_segment(self.text, part)})"

        match node:
            case ast.Compare(ops=[operator]):
                return node, f"{of(node.left)} {COMPARISONS[type(operator).__name__]} {of(node.comparators[0])}"
            case ast.BinOp() if type(node.op).__name__ in OPERATORS and not isinstance(node.left, ast.JoinedStr):
                return node, f"{of(node.left)} {OPERATORS[type(node.op).__name__]} {of(node.right)}"
            case ast.BoolOp():
                return node, (" or " if isinstance(node.op, ast.And) else " and ").join(map(of, node.values))
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                return node, of(node.operand)
            case ast.AugAssign(op=ast.Add() | ast.Sub()):
                return node.value, f"-{of(node.value)}"
            case ast.Constant(value=bool() | int() | float() as value):
                return node, str(
                    not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2 or 1.0
                )
            case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
                return node.value, "None"
        return None


def drawn(root: Path, number: int, seed: int) -> list[dict[str, Any]]:
    """Draw faults, as many of each room (half as many of scan.py), at most one on a line."""
    chosen = []
    for room, where in ROOMS.items():
        places = []
        for path in sorted((root / where).rglob("*.py")) or [root / where]:
            text = path.read_text(encoding="utf-8")
            if "from numba" not in text:
                starts = [0, *accumulate(len(line.encode()) for line in text.splitlines(keepends=True))]
                for node, fault in {node.lineno: (node, fault) for node, fault in Places(text).found}.values():
                    begin, last = starts[node.lineno - 1] + node.col_offset, node.end_lineno or node.lineno
                    end = starts[last - 1] + (node.end_col_offset or 0)
                    place = {"room": room, "file": str(path.relative_to(root)), "line": node.lineno}
                    places.append(place | {"begin": begin, "end": end, "fault": fault})
        random.Random(f"{seed} {room}").shuffle(places)
        chosen += places[: number // len(ROOMS) // (2 if room == "scan" else 1)]
    return chosen


def plant(root: Path, copy: Path, number: int, seed: int) -> None:
    """Copy the checkout and write the faults into the copy."""
    made = {str(root / name) for name in ("runs", "build", "dist", "site")}
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    shutil.copytree(
        root, copy, ignore=lambda at, names: hidden(at, names) | {name for name in names if str(Path(at, name)) in made}
    )
    faults, first = drawn(root, number, seed), dict[str, int]()
    for index, fault in sorted(enumerate(faults), key=lambda pair: -pair[1]["begin"]):
        begin, end, file = fault.pop("begin"), fault.pop("end"), copy / fault["file"]
        if end > first.get(fault["file"], end):  # encloses a later expression
            fault["fault"] = ""
            continue
        first[fault["file"]], data = begin, file.read_bytes()
        right = data[begin:end].decode()
        fault["right"] = " ".join(right.split())
        file.write_bytes(
            data[:begin] + f"(({fault['fault']}) if __mutant__({index}) else ({right}))".encode() + data[end:]
        )
    init = copy / "minrl/__init__.py"
    lines, end = init.read_text().splitlines(keepends=True), ast.parse(init.read_text()).body[0].end_lineno
    init.write_text("".join([*lines[:end], SWITCH, *lines[end:]]))
    (copy / "mutants.json").write_text(json.dumps(faults, indent=1))


class Run:
    """A pytest plugin that runs the collected tests once, and then, for each fault, those that come by it."""

    def __init__(self, copy: Path, out: Path, rooms: list[str]) -> None:
        self.faults, self.out, self.rooms = json.loads((copy / "mutants.json").read_text()), out, rooms
        self.log, self.seconds, self.failed = out.with_suffix(".log"), dict[str, float](), set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not self.out.with_suffix(".times").exists():
            in_child(lambda: self.note(session.items))
        times, failed = json.loads(self.out.with_suffix(".times").read_text())
        items = {item.nodeid: item for item in session.items if item.nodeid not in failed}
        seen: dict[int, set[str]] = {}
        for line in self.log.read_text().splitlines():
            number, test = line.split("\t")
            seen.setdefault(int(number), set()).add(test)
        for number, fault in enumerate(self.faults):
            if not fault["fault"] or fault["room"] not in self.rooms:
                continue
            tests = [test for test in seen.get(number, ()) if test in items]
            files = {test.split("::")[0] for test in tests}
            # Other tests of a file share its caches and trained models.
            rest = [test for test in items if test.split("::")[0] in files and test not in tests]
            order, budget = [], BUDGET_S
            for test in [*sorted(tests, key=lambda test: times[test]), *sorted(rest, key=lambda test: times[test])]:
                budget -= times[test] + 0.01
                order += [items[test]] if budget > 0 or not order else []
            note = self.out.with_suffix(".by")
            note.unlink(missing_ok=True)
            status = in_child(lambda n=number, o=order: self.judge(n, o)) if order else 0
            fault |= {"tests": len(order), "caught": status != 0, "by": note.read_text() if note.exists() else None}
            self.out.write_text(json.dumps(self.faults, indent=1))
        report(self.faults)
        return True

    def note(self, items: list[pytest.Item]) -> int:
        os.environ["MUTANT_LOG"] = str(self.log.absolute())
        for item, after in zip(items, [*items[1:], None], strict=True):
            os.environ["MUTANT_TEST"] = item.nodeid
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
        self.out.with_suffix(".times").write_text(json.dumps([self.seconds, sorted(self.failed)]))
        return 0

    def judge(self, number: int, items: list[pytest.Item]) -> int:
        os.environ["MUTANT"] = str(number)
        sys.modules["builtins"].__awake__ = number  # type: ignore[attr-defined]
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
        for item, after in zip(items, [*items[1:], None], strict=True):
            self.out.with_suffix(".by").write_text(item.nodeid)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                return 1
        return 0


def in_child(work: Any) -> int:
    """Return 0 where `work` returned 0 in a forked process, else something else."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        status = 1
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def report(faults: list[dict[str, Any]]) -> None:
    """Print what was caught, by room, and what was not."""
    tried = [fault for fault in faults if "caught" in fault]
    for room in [*ROOMS, ""]:
        here = [fault for fault in tried if room in ("", fault["room"])]
        print(f"{room or 'all':8} {sum(f['caught'] for f in here)} of {len(here)} caught")
    for f in tried:
        if not f["caught"]:
            print(f"survived: {f['file']}:{f['line']}: {f['right']}  ->  {f['fault']}  ({f['tests']} tests)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["plant", "run"])
    parser.add_argument("copy", type=Path)
    parser.add_argument("--number", type=int, default=225)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    arguments, rest = parser.parse_known_args()
    if arguments.what == "plant":
        plant(Path(__file__).absolute().parent.parent, arguments.copy, arguments.number, arguments.seed)
    else:
        out = arguments.out.absolute()
        os.chdir(arguments.copy)
        os.environ["PYTHONPATH"] = str(arguments.copy.absolute())
        sys.path.insert(0, str(arguments.copy.absolute()))
        options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
        pytest.main([*options, *rest], plugins=[Run(arguments.copy.absolute(), out, arguments.rooms)])


if __name__ == "__main__":
    main()
