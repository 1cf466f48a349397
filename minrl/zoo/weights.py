"""Layers of a saved actor, from the names and shapes of its weights.

Names are those of Stable-Baselines3 and sb3-contrib. The critic's are left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minrl.system.messages import one_line
from minrl.zoo.archive import UnreadableError
from minrl.zoo.settings import Kind, Settings
from minrl.zoo.spaces import Part

# Of critics, target networks and noise that is drawn anew.
_CRITICS = (
    *("value_net.", "mlp_extractor.value_net.", "vf_features_extractor.", "lstm_critic.", "critic.", "critic_target."),
    *("actor_target.", "q_net_target.", "quantile_net_target."),
)
# Kernel sizes and strides of NatureCNN (stable_baselines3/common/torch_layers.py).
NATURE = ((8, 4), (4, 2), (3, 1))


@dataclass(frozen=True)
class LinearSize:
    """Size of a linear layer."""

    inputs: int
    outputs: int
    bias: bool = True


@dataclass(frozen=True)
class LstmSize:
    """Size of an LSTM."""

    inputs: int
    hidden: int
    layers: int
    bias: bool = True


@dataclass(frozen=True)
class CnnSize:
    """Size of a NatureCNN: channels after each convolution, and its linear layer."""

    channels: tuple[int, ...]  # of the image and of each convolution
    linear: LinearSize


@dataclass
class Layers:
    """Layers of an actor, and their weights by the names of `minrl.zoo.network.Actor`."""

    cnns: dict[str, CnnSize] = field(default_factory=dict)  # by the name of the part
    lstm: LstmSize | None = None
    hidden: tuple[LinearSize, ...] = ()
    head: LinearSize = LinearSize(0, 0)
    log_std: tuple[int, ...] | None = None  # shape of a parameter
    std_head: LinearSize | None = None  # in its place a layer
    clips_mean: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)


class _Names:
    """The actor's weights, of which each must be used."""

    def __init__(self, weights: Mapping[str, Tensor], other: tuple[str, ...]) -> None:
        self.weights = {name: value for name, value in weights.items() if not name.startswith(other)}
        self.left = set(self.weights)

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def has(self, prefix: str) -> bool:
        """Return True if a name begins with `prefix`."""
        return any(name.startswith(prefix) for name in self.weights)

    def take(self, name: str, axes: int) -> Tensor:
        """Return the weights `name`, which have `axes` axes, in float32."""
        value = self.weights.get(name)
        if value is None or value.dim() != axes or 0 in value.shape or not value.is_floating_point():
            raise UnreadableError(f"its weights {one_line(name, 100)} are not those of a known layer")
        if not value.isfinite().all():
            raise ValueError(f"the weights {one_line(name, 100)} are not finite")
        self.left.discard(name)
        return value.to(torch.float32)

    def drop(self, prefix: str) -> None:
        """Leave out what begins with `prefix`."""
        self.left = {name for name in self.left if not name.startswith(prefix)}

    def finish(self) -> None:
        """Raise UnreadableError for weights that nothing used."""
        if self.left:
            raise UnreadableError(f"its policy has a layer {one_line(min(self.left), 100)!r} that is not known")


def read_layers(weights: Mapping[str, Tensor], settings: Settings, parts: tuple[Part, ...]) -> Layers:
    """Read the layers of an actor.

    Raises:
        UnreadableError: for layers that are not known.
        ValueError: for weights that do not fit each other or are not finite.
    """
    found = Layers()
    names = _Names(weights, _CRITICS)
    roots: dict[Kind, str] = {"sac": "actor.", "td3": "actor.", "dqn": "q_net.", "qrdqn": "quantile_net."}
    root = roots.get(settings.kind, "")
    width = _read_features(names, root, parts, found)
    if settings.recurrent:
        width = _read_lstm(names, width, found)
    if settings.kind == "actor-critic":
        shared = [*_linears(names, "mlp_extractor.shared_net."), *_linears(names, "mlp_extractor.policy_net.")]
        _add_hidden(found, names, shared)
        found.head = _add(found, names, "action_net", "head.linear")
        if "log_std" in names:
            found.weights["head.log_std"] = log_std = names.take("log_std", names.weights["log_std"].dim())
            found.log_std = tuple(log_std.shape)
    elif settings.kind == "sac":
        _add_hidden(found, names, list(_linears(names, "actor.latent_pi.")))
        found.clips_mean = "actor.mu.0.weight" in names  # a Hardtanh follows
        found.head = _add(found, names, "actor.mu.0" if found.clips_mean else "actor.mu", "head.linear")
        if "actor.log_std" in names:
            found.weights["head.log_std"] = log_std = names.take("actor.log_std", 2)
            found.log_std = tuple(log_std.shape)
        else:
            found.std_head = _add(found, names, "actor.log_std", "head.std")
    else:
        last = {"td3": "mu.", "dqn": "q_net.", "qrdqn": "quantile_net.", "ars": "action_net."}[settings.kind]
        *hidden, head = list(_linears(names, root + last)) or [""]
        _add_hidden(found, names, hidden)
        found.head = _add(found, names, head, "head.linear")
    names.finish()
    _check_chain(found, width)
    return found


def _read_features(names: _Names, root: str, parts: tuple[Part, ...], found: Layers) -> int:
    """Read the networks of images and return the width of all features."""
    extractor = f"{root}features_extractor."
    if names.has("pi_features_extractor."):  # the same weights under two names, or those of old versions under one
        names.drop(extractor)
        extractor = "pi_features_extractor."
    width = 0
    for number, part in enumerate(parts):
        inner = f"extractors.{part.name}." if part.name else ""
        if not names.has(f"{extractor}{inner}cnn."):
            width += part.last - part.first
            continue
        if part.image is None:
            raise ValueError(f"a network for images reads the observation {part.name or 'of a vector'}")
        convolutions = [f"{extractor}{inner}cnn.{2 * place}" for place in range(len(NATURE))]
        channels = [part.image[0]]
        for place, ((side, _), name) in enumerate(zip(NATURE, convolutions, strict=True)):
            kernel, bias = names.take(f"{name}.weight", 4), names.take(f"{name}.bias", 1)
            if kernel.shape[2:] != (side, side):
                raise UnreadableError("its network for images is none of Stable-Baselines3's")
            if kernel.shape[1] != channels[-1] or len(bias) != len(kernel):
                raise ValueError(f"a network for {kernel.shape[1]} channels reads {channels[-1]}")
            channels.append(len(kernel))
            found.weights |= {f"cnns.{number}.{2 * place}.weight": kernel, f"cnns.{number}.{2 * place}.bias": bias}
        linear = _add(found, names, f"{extractor}{inner}linear.0", f"cnns.{number}.{2 * len(NATURE) + 1}")
        found.cnns[part.name] = CnnSize(tuple(channels), linear)
        width += linear.outputs
    return width


def _read_lstm(names: _Names, width: int, found: Layers) -> int:
    """Read the actor's LSTM and return its width."""
    layers = 0
    has_bias = "lstm_actor.bias_ih_l0" in names
    while f"lstm_actor.weight_ih_l{layers}" in names:
        for kind, axes in (("weight_ih", 2), ("weight_hh", 2), ("bias_ih", 1), ("bias_hh", 1)):
            name = f"{kind}_l{layers}"
            if kind.startswith("weight") or has_bias:
                found.weights[f"lstm.{name}"] = names.take(f"lstm_actor.{name}", axes)
        layers += 1
    if not layers:
        raise UnreadableError("its policy has no LSTM that is known")
    hidden = found.weights["lstm.weight_hh_l0"].shape[1]
    for layer in range(layers):
        inputs = width if layer == 0 else hidden
        for kind, shape in (("weight_ih", (4 * hidden, inputs)), ("weight_hh", (4 * hidden, hidden))):
            actual = tuple(found.weights[f"lstm.{kind}_l{layer}"].shape)
            if actual != shape:
                raise ValueError(f"the LSTM's {kind}_l{layer} of shape {actual} should have shape {shape}")
    found.lstm = LstmSize(width, hidden, layers, has_bias)
    return hidden


def _linears(names: _Names, prefix: str) -> Iterator[str]:
    """Yield the names of linear layers 0, 2, 4, … between which activations stand."""
    place = 0
    while f"{prefix}{place}.weight" in names:
        yield f"{prefix}{place}"
        place += 2


def _add_hidden(found: Layers, names: _Names, hidden: list[str]) -> None:
    found.hidden = tuple(_add(found, names, name, f"hidden.{2 * place}") for place, name in enumerate(hidden))


def _add(found: Layers, names: _Names, name: str, ours: str) -> LinearSize:
    """Add a linear layer under our name and return its size."""
    weight = found.weights[f"{ours}.weight"] = names.take(f"{name}.weight", 2)
    has_bias = f"{name}.bias" in names
    if has_bias:
        bias = found.weights[f"{ours}.bias"] = names.take(f"{name}.bias", 1)
        if len(bias) != len(weight):
            raise ValueError(f"the bias of {name} has {len(bias)} elements for {len(weight)} rows")
    return LinearSize(weight.shape[1], weight.shape[0], has_bias)


def _check_chain(found: Layers, width: int) -> None:
    """Raise ValueError unless each layer reads as many values as the one before it has, the first one `width`."""
    for layer in (*found.hidden, found.head):
        if layer.inputs != width:
            raise ValueError(
                f"a layer of {layer.inputs} inputs follows {width} values; the observations may be others than those "
                "of the training"
            )
        width = layer.outputs
