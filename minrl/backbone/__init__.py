"""A stack of cells, itself a cell, and its compiled forms on a CPU."""

from minrl.backbone.stack import Backbone, Block

__all__ = ["Backbone", "Block"]
