"""Preparation of corpora: what has to be on disk before training."""
