"""Agents: one file is one agent, top to bottom."""

# Name on the command line and in checkpoints -> module beside this file and class, imported on first use.
AGENTS = {
    "clone": "clone:CloneAgent",
    "decision": "decision:DecisionAgent",
    "distill": "distill_agent:DistillAgent",
    "offline_sac": "offline_sac:OfflineSACAgent",
    "ppo": "ppo_agent:PPOAgent",
    "sac": "sac_agent:SACAgent",
}
