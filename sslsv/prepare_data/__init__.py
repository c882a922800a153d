"""Preparation of corpora: everything that must be on disk before training."""
