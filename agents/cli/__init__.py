"""The commands of `minrl`, one file each."""
