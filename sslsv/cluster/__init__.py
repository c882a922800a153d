"""Join or start a Ray cluster, compute what fits, and run the training workers."""
