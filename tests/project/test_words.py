"""Words of the tree: openings of docstrings, and the field's terms instead of paraphrases."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("minrl", "agents", "envs", "benchmarks", "tests")
# Verbs that open a function's docstring; a new one is added here.
_LISTED = """
Accept Accumulate Act Adapt Add Adjust Advance Align Allocate Allow Anchor Announce Answer Append Apply Arrange Assert
Assign Attach Attend Average Backpropagate Begin Bind Bound Broadcast Build Cache Call Cancel Carry Cast Centre Change
Check Choose Clear Clip Clone Close Collect Combine Compare Compile Complete Compute Concatenate Configure Connect
Construct Continue Convert Convolve Copy Correct Count Create Cut Decide Declare Decode Define Delete Derive Describe
Detect Determine Differentiate Discard Divide Download Draw Drop Embed Empty Encode End Ensure Enter Escape Estimate
Evaluate Exclude Execute Expand Explain Export Extend Extract Fail Feed Fetch Fill Filter Find Finish Fit Flatten Flip
Fold Follow Forget Format Forward Gather Generate Give Group Guess Hand Handle Hash Hide Hold Ignore Import Include
Index Infer Initialise Insert Install Integrate Interleave Interpolate Invert Iterate Join Keep Label Launch Learn
Leave Limit Link List Load Locate Lock Log Look Lower Make Map Mark Mask Match Measure Merge Mix Move Multiply Name
Normalise Note Number Open Order Override Overwrite Pack Pad Pair Parse Pass Permute Perturb Pick Place Plan Play Plot
Point Pool Predict Prefetch Prepare Print Process Produce Project Prove Put Raise Rank Read Rebuild Recompute Record
Recover Reduce Refuse Register Reject Relabel Release Remove Rename Render Repeat Replace Replay Report Request
Require Rescale Reserve Reset Reshape Resolve Restart Restore Resume Return Reverse Rewrite Roll Rotate Round Run
Sample Save Scale Scan Score Search Seed Select Send Serve Set Share Shift Show Shuffle Simulate Skip Slice Solve Sort
Split Spread Stack Standardise Start State Step Stop Store Stream Strip Subtract Sum Summarise Suppress Switch
Tabulate Take Test Time Trace Track Train Transform Translate Transpose Treat Trim Truncate Try Tune Turn Unflatten
Unpack Update Use Validate Verify Visit Wait Walk Warn Watch Weight Withdraw Wrap Write Yield Zero
"""
VERBS = set(_LISTED.split())
# Openings of a class's docstring that name no thing, beside verbs; these verbs are nouns too.
OPENINGS = {"What", "Whether", "How", "Why", "Where", "When", "As", "One", "Those", "This", "It", "Its", "Of"}
NOUNS = {"Time", "Share", "Pool"}
# Said otherwise: backward pass, nothing, n elements, released, exactly, meanwhile.
PARAPHRASES = re.compile(r"\bway back\b|\bnobody\b|\bso many\b|\blet go\b|\bjust what\b|\bon the way\b", re.IGNORECASE)

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def docstrings(source: str) -> Iterator[tuple[Documented, str]]:
    """Yield each function and class that has a docstring, with its text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, text


def fault(node: Documented, text: str) -> str:
    """Return the fault in the opening of a docstring, an empty text for a right one."""
    first = text.split()[0].rstrip(".,:;")
    if isinstance(node, ast.ClassDef):
        return f"a class begins with {first}" if first in OPENINGS | (VERBS - NOUNS) else ""
    decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "setter"}:
        return f"a property begins with {first}" if first in OPENINGS else ""
    if first not in VERBS:
        return f"a function begins with {first}"
    returned = "" if node.returns is None else ast.unparse(node.returns)
    if first == "Return" and returned == "None":
        return "a procedure returns nothing"
    if first == "Return" and returned == "bool" and not text.startswith("Return True if "):
        return "a predicate begins with Return True if"
    return ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_begin_with_a_verb_or_a_noun(folder: str) -> None:
    assert [
        f"{path.relative_to(ROOT)}:{node.lineno}: {wrong}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node, text in docstrings(path.read_text(encoding="utf-8"))
        if (wrong := fault(node, text))
    ] == []


@pytest.mark.parametrize("folder", [*FOLDERS, "docs", "."])
def test_texts_use_the_terms_of_the_field(folder: str) -> None:
    files = (ROOT / folder).glob("*.md") if folder in ("docs", ".") else (ROOT / folder).rglob("*.py")
    assert [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(files)
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PARAPHRASES.search(line)
    ] == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("def f():\n '''The mean.'''", "a function begins with The"),
        ("def f() -> bool:\n '''Return whether x.'''", "a predicate begins with Return True if"),
        ("def f() -> None:\n '''Return x.'''", "a procedure returns nothing"),
        ("class A:\n '''Compute x.'''", "a class begins with Compute"),
        ("class A:\n @property\n def x(self):\n  '''What it is.'''", "a property begins with What"),
        ("def f() -> bool:\n '''Return True if x.'''", ""),
        ("class A:\n '''Buffer of steps.'''", ""),
    ],
)
def test_faulty_openings_are_found(source: str, wrong: str) -> None:
    assert [fault(node, text) for node, text in docstrings(source)] == [wrong]
