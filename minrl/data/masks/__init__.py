"""Action masks: flags for the choices of an action."""
