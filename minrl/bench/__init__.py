"""What `minrl bench` measures: ratios between what this package does and its peers, interleaved in one run."""
