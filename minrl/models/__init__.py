"""Parts of agents: encoders, heads, losses, context windows and the compiled action."""
