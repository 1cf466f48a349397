"""A stack of cells, itself a cell, and its compiled forms on a CPU."""

from minrl.backbone.block import Block
from minrl.backbone.stack import Backbone

__all__ = ["Backbone", "Block"]
