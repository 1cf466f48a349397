"""MuJoCo's warnings sent to Python's logging instead of a MUJOCO_LOG.TXT in the current folder."""

import logging
from importlib.util import find_spec

_LOG = logging.getLogger("minrl.mujoco")


def quiet_mujoco() -> None:
    """Send MuJoCo's warnings to the logger `minrl.mujoco`, each once; without MuJoCo do nothing."""
    if find_spec("mujoco") is None:
        return
    import mujoco

    if mujoco.get_mju_user_warning() is not None:
        return
    seen: set[str] = set()

    def warn(message: str) -> None:
        if message not in seen:
            seen.add(message)
            # Deprecations concern the model files of older environments, not the run.
            _LOG.log(logging.INFO if "deprecated" in message else logging.WARNING, "%s", message)

    mujoco.set_mju_user_warning(warn)
