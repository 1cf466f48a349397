"""Flags of commands that take a policy's .zip of Stable-Baselines3 or sb3-contrib."""

import argparse

RUN_OR_ZIP = "a run's folder (its last checkpoint), a checkpoint, or a .zip of Stable-Baselines3 or sb3-contrib"


def add_vecnormalize(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--vecnormalize`."""
    parser.add_argument(
        "--vecnormalize",
        metavar="FILE.pkl",
        help="file of VecNormalize.save, for a policy's .zip (default: vecnormalize.pkl as RL Zoo puts it beside the "
        ".zip, if there is one; none for no file)",
    )
