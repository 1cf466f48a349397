"""Policies of recurrent PPO by name, and those that replace sb3-contrib's in its saved files."""

import base64
import binascii
import json
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import open_path

from minrl.online.backbone_policy import BackboneCnnPolicy, BackboneMultiInputPolicy, BackbonePolicy
from minrl.online.lstm_policy import LstmCnnPolicy, LstmMultiInputPolicy, LstmPolicy

POLICIES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": BackbonePolicy,
    "CnnPolicy": BackboneCnnPolicy,
    "MultiInputPolicy": BackboneMultiInputPolicy,
    "MlpLstmPolicy": LstmPolicy,
    "CnnLstmPolicy": LstmCnnPolicy,
    "MultiInputLstmPolicy": LstmMultiInputPolicy,
}
# sb3-contrib's classes (sb3_contrib/common/recurrent/policies.py, 2.9.2).
_CONTRIB_MODULE = "sb3_contrib.common.recurrent.policies"
_CONTRIB: dict[str, type[BasePolicy]] = {
    "RecurrentActorCriticPolicy": LstmPolicy,
    "RecurrentActorCriticCnnPolicy": LstmCnnPolicy,
    "RecurrentMultiInputActorCriticPolicy": LstmMultiInputPolicy,
}


def contrib_objects(path: Any) -> dict[str, Any]:
    """Return `custom_objects` for a file that sb3-contrib's RecurrentPPO saved: our policy in place of its own.

    The class is read from the file without importing sb3-contrib, which need not be installed. Stable-Baselines3
    pickles it by reference: the name of its module, then its own. Empty for any other file.

    Args:
        path: as for Stable-Baselines3's `load`, with or without `.zip`, or an open file.
    """
    file = open_path(path, "r", verbose=0, suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            stored = json.loads(archive.read("data"))["policy_class"]
        pickled = base64.b64decode(stored[":serialized:"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, binascii.Error):
        return {}  # Stable-Baselines3 raises the error
    finally:
        if isinstance(path, (str, Path)):
            file.close()
    if stored.get("__module__") != _CONTRIB_MODULE:
        return {}
    found = [policy for name, policy in _CONTRIB.items() if name.encode() in pickled]
    return {"policy_class": found[0]} if found else {}
