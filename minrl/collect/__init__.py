"""Recording of data sets with policies that act in an environment."""
