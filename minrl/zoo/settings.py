"""Plain settings of a saved policy: algorithm, activation and the options that its actions depend on.

Names and defaults are those of Stable-Baselines3 2.9 and sb3-contrib 2.9, which earlier releases share.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from minrl.system.messages import one_line
from minrl.zoo.archive import Stored, UnreadableError

Kind = Literal["actor-critic", "sac", "td3", "dqn", "qrdqn", "ars"]

# Modules of the policy classes whose layers are known.
_KINDS: dict[str, Kind] = {
    "stable_baselines3.common.policies": "actor-critic",
    "sb3_contrib.common.maskable.policies": "actor-critic",
    "sb3_contrib.common.recurrent.policies": "actor-critic",
    "stable_baselines3.sac.policies": "sac",
    "sb3_contrib.tqc.policies": "sac",
    "stable_baselines3.td3.policies": "td3",
    "stable_baselines3.dqn.policies": "dqn",
    "sb3_contrib.qrdqn.policies": "qrdqn",
    "sb3_contrib.ars.policies": "ars",
}
_ALGORITHMS = {"sac": "SAC", "td3": "TD3", "dqn": "DQN", "qrdqn": "QR-DQN", "ars": "ARS"}
# Activations without parameters, as the classes make them without arguments.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.CELU, nn.SELU,
        nn.ReLU6, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Identity,
    )
}  # fmt: skip
_EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
_EXTRACTOR_OPTIONS = {"features_dim", "cnn_output_dim", "normalized_image"}
# Options of the policies, whether or not an action depends on them.
_OPTIONS = {
    *("net_arch", "activation_fn", "ortho_init", "use_sde", "log_std_init", "full_std", "use_expln", "squash_output"),
    *("features_extractor_class", "features_extractor_kwargs", "share_features_extractor", "normalize_images"),
    *("optimizer_class", "optimizer_kwargs", "lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm"),
    *("lstm_kwargs", "clip_mean", "n_critics", "n_quantiles", "with_bias", "device", "sde_net_arch"),
}
_LSTM_OPTIONS = {"bias": None, "dropout": None, "batch_first": False, "bidirectional": False, "proj_size": 0}
_CLASS = re.compile(r"<class '([\w.]+)'>")


@dataclass(frozen=True)
class Settings:
    """Settings by which a saved policy acts."""

    kind: Kind
    algorithm: str
    activation: str  # a key of `ACTIVATIONS`
    recurrent: bool
    maskable: bool
    normalize_images: bool
    use_sde: bool
    full_std: bool
    use_expln: bool
    squash_output: bool | None  # None where the file does not say
    clip_mean: float
    exploration_rate: float  # of DQN and QR-DQN
    has_net_arch: bool


def read_settings(stored: Stored) -> Settings:
    """Read the settings from their plain text.

    Raises:
        UnreadableError: for a policy class, an extractor, an activation or an option whose code is not known.
    """
    module = stored.data["policy_class"].get("__module__")
    if not isinstance(module, str) or module not in _KINDS:
        raise UnreadableError(
            f"its policy is a class of {one_line(str(module), 80)}, none of Stable-Baselines3's or sb3-contrib's whose "
            "layers are known"
        )
    kind = _KINDS[module]
    options = _options(stored)
    default = "Tanh" if kind == "actor-critic" else "ReLU"
    return Settings(
        kind=kind,
        algorithm=_algorithm(stored, kind, module),
        activation=_activation(options.get("activation_fn"), default),
        recurrent=module == "sb3_contrib.common.recurrent.policies",
        maskable=module == "sb3_contrib.common.maskable.policies",
        normalize_images=_flag(options.get("normalize_images", True), "normalize_images"),
        use_sde=_flag(stored.data.get("use_sde") or options.get("use_sde") or False, "use_sde"),
        full_std=_flag(options.get("full_std", True), "full_std"),
        use_expln=_flag(options.get("use_expln", False), "use_expln"),
        squash_output=_flag(options["squash_output"], "squash_output") if "squash_output" in options else None,
        clip_mean=_number(options.get("clip_mean", 2.0), "clip_mean"),
        exploration_rate=_number(stored.data.get("exploration_rate", 0.0), "exploration_rate"),
        has_net_arch="net_arch" in options,
    )


def _options(stored: Stored) -> dict[str, Any]:
    """Return policy_kwargs, after a check that each is known."""
    options = stored.plain("policy_kwargs")
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise UnreadableError("its policy_kwargs are no table")
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise UnreadableError(f"its policy has an option {one_line(unknown[0], 80)!r} that is not known")
    extractor = options.get("features_extractor_class")
    if extractor is not None and _class_name(extractor, "stable_baselines3.common.torch_layers") not in _EXTRACTORS:
        raise UnreadableError(f"its features_extractor_class {one_line(str(extractor), 100)} is not known")
    _check_known(options, "features_extractor_kwargs", dict.fromkeys(_EXTRACTOR_OPTIONS))
    _check_known(options, "lstm_kwargs", _LSTM_OPTIONS)
    return options


def _check_known(options: dict[str, Any], name: str, known: dict[str, Any]) -> None:
    """Raise UnreadableError unless a table of options has known keys, and known values where only one is supported."""
    given = options.get(name) or {}
    fits = isinstance(given, dict) and all(
        key in known and (known[key] is None or value == known[key]) for key, value in given.items()
    )
    if not fits:
        raise UnreadableError(f"its {name} {one_line(str(given), 100)} are not known")


def _activation(given: Any, default: str) -> str:
    if given is None:
        return default
    name = _class_name(given, "torch.nn.modules.activation") or _class_name(given, "torch.nn.modules.linear")
    if name not in ACTIVATIONS:
        raise UnreadableError(f"its activation_fn {one_line(str(given), 100)} is not known")
    return name


def _class_name(text: Any, module: str) -> str:
    """Return the name in "<class 'module.Name'>", "" for any other text."""
    found = _CLASS.fullmatch(str(text))
    where, _, name = found[1].rpartition(".") if found else ("", "", "")
    return name if where == module else ""


def _flag(value: Any, name: str) -> bool:
    """Return True if a setting is on; JSON holds NumPy's bools as text."""
    if isinstance(value, bool) or value in ("True", "False"):
        return value in (True, "True")
    raise UnreadableError(f"its {name} {one_line(str(value), 80)} is not known")


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UnreadableError(f"its {name} {one_line(str(value), 80)} is no number") from error
    if not abs(number) < float("inf"):
        raise UnreadableError(f"its {name} is {number}")
    return number


def _algorithm(stored: Stored, kind: Kind, module: str) -> str:
    """Infer the algorithm's name, which the file does not state."""
    if kind != "actor-critic":
        if kind == "td3" and stored.data.get("policy_delay") == 1:
            return "DDPG"
        return "TQC" if module.startswith("sb3_contrib.tqc") else _ALGORITHMS[kind]
    if module.startswith("sb3_contrib"):
        return "RecurrentPPO" if "recurrent" in module else "MaskablePPO"
    return "PPO" if "clip_range" in stored.data else "TRPO" if "cg_max_steps" in stored.data else "A2C"
