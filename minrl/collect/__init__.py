"""Recording of data sets by a policy that acts in an environment."""
