"""Count calls that go from one file to another, in one gradient step and from a command to the first step.

    python benchmarks/hops.py [--list] [--step FILE:FUNCTION] -- train decision --data NAME --steps 4 --out RUN

A hop is a call whose caller lies in another file of the package; frames of torch and others between the two are passed
over. Decorators and generators count as what they are: calls.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

Hop = tuple[str, str]


class Tracer:
    """Hops from the start to the first call of a function, and within its third call.

    Args:
        package: folders whose files count.
        step: the function that makes one gradient step, as FILE:NAME.
    """

    def __init__(self, package: list[str], step: str) -> None:
        self.package, self.step = tuple(package), step
        self.before: Counter[Hop] = Counter()
        self.within: Counter[Hop] = Counter()
        self.calls = 0
        self._step: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count an event of `sys.setprofile`."""
        if event == "return" and frame is self._step:
            self._step = None
        if event != "call" or not self._is_ours(frame) or frame.f_code.co_name == "<module>":
            return
        if self._name(frame).endswith(f"/{self.step}"):
            self.calls, self._step = self.calls + 1, frame
        counted = self.before if self.calls == 0 else self.within if self.calls == 3 and self._step else None
        caller = frame.f_back
        while caller is not None and not self._is_ours(caller):
            caller = caller.f_back
        if counted is not None and caller is not None and caller.f_code.co_filename != frame.f_code.co_filename:
            counted[self._name(caller), self._name(frame)] += 1

    def _is_ours(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self.package)

    def _name(self, frame: FrameType) -> str:
        file = Path(frame.f_code.co_filename)
        return f"{file.parent.name}/{file.name}:{frame.f_code.co_name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", default="loop.py:_update", help="function that makes one gradient step (%(default)s)")
    parser.add_argument("--list", action="store_true", help="list the hops of the gradient step")
    parser.add_argument("command", nargs="+", help="the command line of minrl")
    arguments = parser.parse_args()
    import minrl
    from minrl import agents
    from minrl.agents.__main__ import main as run

    folders = [str(Path(str(module.__file__)).parent) + "/" for module in (minrl, agents)]
    tracer = Tracer(folders, arguments.step)
    sys.setprofile(tracer)
    try:
        run(arguments.command)
    finally:
        sys.setprofile(None)
    print(f"to the first step {tracer.before.total()} hops, one gradient step {tracer.within.total()} hops")
    for (caller, called), count in tracer.within.most_common() if arguments.list else ():
        print(f"{count:5d}  {caller} -> {called}")


if __name__ == "__main__":
    main()
