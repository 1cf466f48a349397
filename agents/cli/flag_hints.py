"""Hints for flags that users know from other programs."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from minrl.system.names import nearest

# Names in Stable-Baselines3, CleanRL, sb3-contrib and the Decision Transformer's code.
SYNONYMS = {
    "--lr": "--learning-rate",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--timesteps": "--steps",
    "--total-timesteps": "--steps",
    "--num-steps": "--steps",
    "--max-steps": "--steps",
    "--max-iters": "--steps",
    "--epochs": "--steps",
    "--hidden-size": "--width",
    "--hidden-dim": "--width",
    "--embed-dim": "--width",
    "--layers": "--depth",
    "--num-layers": "--depth",
    "--n-layer": "--depth",
    "--model": "--cell",
    "--rnn": "--cell",
    "--dataset": "--data",
    "--env-id": "--env",
    "--environment": "--env",
    "--num-envs": "--n-envs",
    "--output": "--out",
    "--output-dir": "--out",
    "--save-dir": "--out",
    "--log-dir": "--out",
    "--logdir": "--out",
    "--target-return": "--target",
    "--num-episodes": "--episodes",
    "--n-episodes": "--episodes",
    "--k": "--context",
    "--K": "--context",
}
# Hints for flags of the other kind of agents.
OFFLINE = {
    "--env": "it learns from a data set, --data NAME; to learn in an environment: minrl train ppo --env ID --out RUN"
}
EXPORT = {"--out": "it writes one file, --onnx FILE"}
ONLINE = {
    "--data": "it learns in an environment, --env ID; to learn from a data set: "
    "minrl train decision --data NAME --out RUN"
}
# Flags of a resumed run, first those without a value.
ALONE = ("--json", "--trust", "--help", "-h")
RESUMED = ("--resume", "--steps", "--env", *ALONE)


def unknown_flag(word: str, known: Collection[str], instead: dict[str, str]) -> str:
    """Return the error message for a flag that a command does not have.

    Args:
        word: the flag.
        known: flags of the command.
        instead: hints for flags of other commands.
    """
    meant = SYNONYMS.get(word, word)
    if meant in instead:
        return f"no flag {word} here: {instead[meant]}"
    if meant in known:
        return f'unknown flag {word}; did you mean "{meant}"?'
    return f"unknown flag {word}; {nearest(word, known)}"


def check_resumed(words: Sequence[str]) -> None:
    """Raise ValueError if arguments of `minrl train` change settings of a resumed run, or begin with another's flag."""
    flags = [word.partition("=")[0] for word in words]
    if "--resume" not in flags:
        if flags and flags[0].startswith("-") and flags[0] not in RESUMED:
            meant = get_close_matches(flags[0], RESUMED, n=1, cutoff=0.75)
            hint = f'did you mean "{meant[0]}"?' if meant else "a new run's stand after its agent's name"
            raise ValueError(f"minrl train has no flag {flags[0]} before an agent's name; {hint}")
        return
    rest = iter(zip(words, flags, strict=True))
    for word, flag in rest:
        if flag not in RESUMED:
            raise ValueError(
                f"a resumed run keeps its settings, so {flag} cannot be given: minrl train --resume RUN, and --steps N "
                "to train it longer; other settings are a new run's: minrl train AGENT ... --out RUN"
            )
        if word == flag and flag not in ALONE:
            next(rest, None)
