"""Commands of `minrl`, one file each."""
