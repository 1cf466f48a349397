"""Agents: one file is one agent, top to bottom."""
