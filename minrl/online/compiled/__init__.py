"""The compiled update and action of recurrent PPO: when they apply, where the parameters lie, and their buffers."""
