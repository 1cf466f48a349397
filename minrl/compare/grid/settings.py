"""The settings of a run, merged from layers; later layers override earlier ones.

From first to last: the agent's defaults, a comparison's defaults, the grid's table [offline] or [online], the task's
table, the method's [methods.NAME.offline] or [methods.NAME.online], and [methods.NAME.tasks.TASK]. A layer may name an
agent and a config file, which its own tables override.

Settings of table [train] that only one agent's training has, or that differ between two, are those of the agent that a
layer is for: the method's agent in the method's layers, in the others the one that they name, by default the family's
first. Another agent takes none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from minrl.compare.grid.family import Family
from minrl.compare.grid.values import Tables, check_keys, choice_of, table_of, text_of
from minrl.system.config import build, check, read_toml, to_plain

TRAIN = "train"
LAYER = ("config", "agent", TRAIN)
FOR = "for"  # key of a layer that has been read: the agent that it is for


def read_layer(table: Tables, where: str, folder: Path, family: Family, agent: str) -> Tables:
    """Read a layer's tables; check keys and types.

    Args:
        table: as it stands in the grid.
        where: place of the layer, for errors.
        folder: that config file names are relative to.
        family: of the task.
        agent: that the layer is for.

    Raises:
        ValueError: for an unknown key, table or agent, or a bad config file.
    """
    parts = {**family.agents, TRAIN: family.settings[agent]}
    check_keys(table, [*LAYER, *parts], where)
    layer: Tables = {FOR: agent}
    if "config" in table:
        name = text_of(table, "config", "", where)
        layer |= read_toml(folder / name if (folder / name).exists() else name, parts)
    for name, kind in parts.items():
        given = table_of(table, name, where)
        check(kind, given, f"[{name}] in {where}")
        layer[name] = {**layer.get(name, {}), **given}
    for key in (family.source, "seed"):
        if key in table.get(TRAIN, {}):
            raise ValueError(f"{where}: {key} belongs to the grid, as {family.source} in [tasks.NAME] and seeds")
    if "agent" in table:
        layer["agent"] = choice_of(table["agent"], family.agents, "agent", where)
    return layer


def merged(layers: Sequence[Tables], family: Family, source: str) -> tuple[str, Tables]:
    """Merge layers into the chosen agent's complete tables, with `source` to learn from and seed 0.

    Raises:
        ValueError: if a setting is impossible.
    """
    agent = chosen_agent(layers, family)
    values: Tables = {agent: {}, TRAIN: dict(family.defaults)}
    kinds = {agent: family.agents[agent], TRAIN: family.settings[agent]}
    for name, table in values.items():
        for layer in layers:
            upper = layer.get(name, {})
            if name == TRAIN:
                upper = _common(upper, family.settings[layer.get(FOR, agent)], kinds[TRAIN])
            _lay(upper, table, kinds[name])
    values[TRAIN] |= {family.source: source, "seed": 0}
    built = {name: build(kind, values[name], "it") for name, kind in kinds.items()}
    if not built[TRAIN].evaluate_every:
        raise ValueError("a comparison needs scores: evaluate_every must be above 0")
    return agent, {name: to_plain(part) for name, part in built.items()}


def chosen_agent(layers: Sequence[Tables], family: Family) -> str:
    """Return the agent that the last layer to name one chooses, else the family's first."""
    return next((layer["agent"] for layer in reversed(layers) if "agent" in layer), next(iter(family.agents)))


def _common(table: Tables, given: type[Any], taken: type[Any]) -> Tables:
    """Return the settings of one training that another one has too: the very same field, which both inherit."""
    own: dict[str, Any] = {field.name: field for field in fields(given)}
    shared = {field.name for field in fields(taken) if own.get(field.name) is field}
    return {key: value for key, value in table.items() if key in shared}


def _lay(upper: Mapping[str, Any], table: dict[str, Any], kind: type[Any]) -> None:
    """Override `table` with `upper`; of two settings that exclude each other the one in `upper` stays."""
    pairs = {(field.name, field.metadata["instead_of"]) for field in fields(kind) if "instead_of" in field.metadata}
    for one, other in pairs | {pair[::-1] for pair in pairs}:
        if one in upper and other not in upper:
            table.pop(other, None)
    table |= upper
