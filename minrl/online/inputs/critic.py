"""A critic with inputs and a cell of its own: what it sees beside the actor, and its backbone.

Asymmetric actor and critic (Pinto et al. 2018, "Asymmetric Actor Critic for Image-Based Robot Learning", arXiv
1710.06542): in training the critic may read a simulator's state, which the policy has to do without when it acts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import spaces

from minrl.backbone import Backbone
from minrl.data.spaces import AnySpace
from minrl.models.encoders import Memoryless
from minrl.system.messages import one_line
from minrl.system.names import nearest

_OPTIONS = ("cell", "width", "depth", "conv", "mlp", "dropout", "cell_options", "keys")
_MLP = 2.0  # hidden width over the width of a critic without memory


def split_space(space: AnySpace, critic_keys: Sequence[str], keys: Sequence[str] | None) -> tuple[AnySpace, AnySpace]:
    """Return the observation spaces of the actor and the critic.

    Args:
        space: of the environment.
        critic_keys: that the critic alone sees.
        keys: all that the critic sees; everything by default.

    Raises:
        ValueError: for keys of an observation without keys, unknown ones, or where nothing is left.
    """
    if not critic_keys and keys is None:
        return space, space
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"critic_keys name parts of a Dict observation; this one is {one_line(space)}")
    for option, names in (("critic_keys", critic_keys), ("critic keys", keys or ())):
        if isinstance(names, str):
            raise ValueError(f'{option} is a list of keys, ["{names}"], got "{names}"')
        for name in names:
            if name not in space.spaces:
                raise ValueError(f'{option}: the observation has no key "{name}"; {nearest(str(name), space.spaces)}')
    seen = list(space.spaces) if keys is None else list(keys)
    unread = [name for name in critic_keys if name not in seen]
    if unread or not seen:
        raise ValueError(f"critic keys {seen} leave out {unread}, which critic_keys give to the critic alone")
    left = [name for name in space.spaces if name not in critic_keys]
    if not left:
        raise ValueError(f"critic_keys {list(critic_keys)} leave the actor nothing to observe")
    return part_of(space, left), part_of(space, [name for name in space.spaces if name in seen])


def part_of(space: spaces.Dict, names: Sequence[str]) -> spaces.Dict:
    """Return a Dict of some of its keys; pairs keep their order."""
    return spaces.Dict([(name, space.spaces[name]) for name in names])


def critic_backbone(options: Mapping[str, Any], actor: Mapping[str, Any]) -> Backbone | Memoryless:
    """Build a critic's backbone.

    Args:
        options: cell (None or "none" for no memory), width, depth, conv, mlp, dropout and cell_options; those of the
            actor by default, but an mlp of 2 for a critic without memory.
        actor: the actor's, without cell_options.

    Raises:
        ValueError: for an unknown option, or as `Backbone`.
    """
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f'critic: no option "{name}"; {nearest(name, _OPTIONS)}')
    chosen = {**actor, **{name: value for name, value in options.items() if name not in ("cell_options", "keys")}}
    if chosen["cell"] in (None, "none"):
        if options.get("cell_options"):
            raise ValueError("critic: a critic without memory has no cell_options")
        mlp = options.get("mlp", _MLP)
        return Memoryless(chosen["width"], chosen["depth"], mlp=mlp, dropout=chosen["dropout"])
    return Backbone(**chosen, **(options.get("cell_options") or {}))
