"""Keep the folder of a run: its files, checkpoints, log and live line."""
