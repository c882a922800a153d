"""Manage the folder of a run: its files, checkpoints and log, and show its progress."""
