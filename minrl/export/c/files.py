"""Texts of an exported agent's files: `policy.h`, `policy.c`, and `main.c`, which acts on lines of standard input."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minrl
from minrl.export.c.expressions import HELPERS, c_type, number
from minrl.export.c.graph import Graph
from minrl.export.c.memory import laid_out
from minrl.export.c.translate import Translation
from minrl.export.onnx import INPUTS

# gcc fuses products and sums only outside of ISO modes, other compilers by default: 4 % of an LSTM's step.
_FUSED = """\
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* the default but for -std=c99 */
#endif
#if defined(__GNUC__) && defined(__x86_64__) && !defined(_WIN32) && !defined(POLICY_PORTABLE)
#define POLICY_WIDE /* not on Windows, where gcc leaves 32-byte vectors on a stack of 16 */
#endif"""
_KINDS = {"w": "float", "d": "double", "t": "unsigned char", "k": "int"}


@dataclass(frozen=True)
class Action:
    """Part of an action: the name of its array, its C type and its size."""

    name: str
    kind: str
    size: int
    about: str  # what it holds


@dataclass(frozen=True)
class Sources:
    """Texts of the files, and the sizes of what they hold."""

    files: dict[str, str]
    actions: tuple[Action, ...]
    observation_size: int
    state_size: int
    mask_size: int  # of the action masks; 0 without them
    workspace: int  # bytes on the stack
    constants: int  # bytes


def write_sources(graph: Graph, *, agent: str, initial_state: Sequence[float], has_target: bool) -> Sources:
    """Translate a graph of observation, reward, episode_start, state and any action_masks; its last output is state.

    Args:
        agent: what the files hold, for their first line.
        initial_state: (S,)
        has_target: the first element of the state is the target return.

    Raises:
        ValueError: for an operator that has no translation.
    """
    observation, reward, start, state, *masks = graph.inputs
    *parts, after = graph.outputs
    actions = tuple(
        Action(
            "action" if len(parts) == 1 else f"action{number_}",
            c_type(graph.examples[name]),
            graph.size(name),
            re.sub(r"[^\w /.-]", "", name.removeprefix("action").strip("/")),
        )
        for number_, name in enumerate(parts)
    )
    arrays = {observation: "observation", reward: "(&reward)", start: "(&episode_start)", state: "state->values"}
    arrays |= dict.fromkeys(masks, "action_masks")
    arrays |= {name: action.name for name, action in zip(parts, actions, strict=True)}
    arrays[after] = "state->values"
    program = Translation(graph, arrays).run()
    statements, totals = laid_out(program.statements)
    seen, allowed = c_type(graph.examples[observation]), sum(graph.size(name) for name in masks)
    sizes = {"float": 4, "double": 8, "unsigned char": 1, "int": 4}
    header = _header(agent, seen, graph.size(observation), graph.size(state), allowed, actions, has_target)
    body = _source(agent, seen, program, statements, totals, allowed, actions, initial_state, has_target)
    return Sources(
        files={"policy.h": header, "policy.c": body, "main.c": _example(seen, allowed, actions)},
        actions=actions,
        observation_size=graph.size(observation),
        state_size=graph.size(state),
        mask_size=allowed,
        workspace=sum(sizes[_KINDS[array]] * size for array, size in totals.items()),
        constants=sum(text.count(",") * sizes["float"] + sizes["float"] for text in program.tables),
    )


def _signature(seen: str, masks: int, actions: Sequence[Action], name: str = "void policy_step") -> str:
    allowed = "const unsigned char action_masks[POLICY_MASK_SIZE], " if masks else ""
    outputs = ", ".join(f"{a.kind} {a.name}[{a.size}]" for a in actions)
    return (
        f"{name}(policy_state *state, const {seen} observation[POLICY_OBSERVATION_SIZE], float reward, "
        f"int episode_start,\n{' ' * (len(name) + 1)}{allowed}{outputs})"
    )


def _title(agent: str) -> str:
    agent = re.sub(r"[^\w .-]", "", agent)  # nothing that ends a comment
    return f"/* {agent}: one step of a recurrent policy, C99. Written by minrl {minrl.__version__}. */"


def _header(
    agent: str, seen: str, observations: int, states: int, masks: int, actions: Sequence[Action], has_target: bool
) -> str:
    about = "".join(f"\n   {a.name}: {a.size} of {a.kind}{f', the part {a.about}' if a.about else ''}" for a in actions)
    allowed = f"\n   action_masks: {INPUTS['action_masks'].replace('True', 'not 0')}" if masks else ""
    target = (
        "\n/* The same with another target return of the episode. */\n"
        "void policy_init_target(policy_state *state, float target_return);\n"
        if has_target
        else ""
    )
    return f"""{_title(agent)}
#ifndef POLICY_H
#define POLICY_H

#define POLICY_OBSERVATION_SIZE {observations}
#define POLICY_STATE_SIZE {states}
{f"#define POLICY_MASK_SIZE {masks}{chr(10)}" if masks else ""}
/* All that the policy remembers. */
typedef struct {{
    float values[POLICY_STATE_SIZE > 0 ? POLICY_STATE_SIZE : 1];
}} policy_state;

/* Prepare a state before its first step. */
void policy_init(policy_state *state);
{target}
/* Choose an action and advance the state: no allocation, no globals, a state for each agent.
   observation: as the environment gives it, flattened; a choice of n is n elements, one of them 1
   reward: of the last action; ignored where an episode starts
   episode_start: not 0 where the observation is the first of an episode{allowed}{about} */
{_signature(seen, masks, actions)};

#endif
"""


def _source(
    agent: str, seen: str, program: Any, statements: Sequence[str], totals: dict[str, int], masks: int,
    actions: Sequence[Action], initial_state: Sequence[float], has_target: bool,
) -> str:  # fmt: skip
    code = "\n".join(_wrapped(f"    {line}") for s in statements for line in s.splitlines())
    tables = "\n".join(
        _wrapped(f"static const {text.replace('NAME', name, 1)}") for text, name in program.tables.items()
    )
    helpers = "\n\n".join(HELPERS[name] for name in HELPERS if name in program.helpers)
    workspace = "".join(f"    {_KINDS[array]} {array}[{size}];\n" for array, size in sorted(totals.items()))
    inputs = ["state", "observation", "reward", "episode_start", *(["action_masks"] if masks else [])]
    unused = "".join(f"    (void){name};\n" for name in inputs if name not in code)
    first = ", ".join(number(np.float32(v)) for v in initial_state) or "0.0f"
    init = _wrapped(f"static const float initial[] = {{{first}}};")
    target = (
        "\nvoid policy_init_target(policy_state *state, float target_return) {\n"
        "    policy_init(state);\n    state->values[0] = target_return;\n}\n"
        if has_target
        else ""
    )
    step, wide = (_signature(seen, masks, actions, f"static {name}") for name in ("inline void step", "void wide"))
    names = ", ".join([*inputs, *(a.name for a in actions)])
    return f"""{_title(agent)}
#include "policy.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

{_FUSED}

{init}

{tables}

{helpers}

void policy_init(policy_state *state) {{
    memcpy(state->values, initial, sizeof initial);
}}
{target}
{step} {{
{workspace}{unused}{code}
}}

#ifdef POLICY_WIDE
/* The same for AVX2, eight floats at a time: 1.5 to 1.7 times as fast as with the four of any x86-64. */
__attribute__((target("avx2,fma"), flatten))
{wide} {{
    step({names});
}}
#endif

{_signature(seen, masks, actions)} {{
#ifdef POLICY_WIDE
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {{
        wide({names});
        return;
    }}
#endif
    step({names});
}}
"""


def _example(seen: str, masks: int, actions: Sequence[Action]) -> str:
    declared = "\n".join(f"    {a.kind} {a.name}[{a.size}];" for a in actions)
    names = ", ".join(a.name for a in actions)
    printed = "\n".join(
        f'        for (int i = 0; i < {a.size}; i++) printf("{_format(a)} ", {_cast(a)}{a.name}[i]);' for a in actions
    )
    scan = "%lf" if seen == "double" else "%f"
    line, argument, read = "episode_start reward observation...", "", ""
    if masks:
        line, argument = f"{line} action_masks...", "action_masks, "
        declared = f"    unsigned char action_masks[POLICY_MASK_SIZE];\n    int allowed;\n{declared}"
        read = """        for (int i = 0; i < POLICY_MASK_SIZE; i++) {
            if (scanf("%d", &allowed) != 1) return 1;
            action_masks[i] = allowed != 0;
        }
"""
    return f"""/* Acts on lines of standard input, {line}, and prints a line an action.

       cc -std=c99 -O3 main.c policy.c -lm -o policy

   In a program of your own, a robot's loop or a game's, these calls stand where the observation is read. */
#include "policy.h"

#include <stdio.h>

int main(void) {{
    policy_state state;
    {seen} observation[POLICY_OBSERVATION_SIZE];
{declared}
    float reward;
    int episode_start;

    policy_init(&state);
    while (scanf("%d %f", &episode_start, &reward) == 2) {{
        for (int i = 0; i < POLICY_OBSERVATION_SIZE; i++)
            if (scanf("{scan}", &observation[i]) != 1) return 1;
{read}        policy_step(&state, observation, reward, episode_start, {argument}{names});
{printed}
        printf("\\n");
    }}
    return 0;
}}
"""


def _format(action: Action) -> str:
    return {"float": "%.9g", "double": "%.17g"}.get(action.kind, "%d")


def _cast(action: Action) -> str:
    return "(double)" if action.kind == "float" else "(int)" if action.kind == "unsigned char" else ""


def _wrapped(text: str) -> str:
    """Return a long statement in lines of 116 characters."""
    if len(text) <= 116:
        return text
    inner = " " * (len(text) - len(text.lstrip()) + 4)
    lines = textwrap.wrap(text, 116, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)
