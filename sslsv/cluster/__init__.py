"""Ray: join or start it, find out what fits, run the training workers."""
