"""Agents: one file is one agent, top to bottom."""

# By the name on the command line and in checkpoints: the module here and its class, imported where it is asked for.
AGENTS = {
    "clone": "clone:CloneAgent",
    "decision": "decision:DecisionAgent",
    "ppo": "ppo_agent:PPOAgent",
}
