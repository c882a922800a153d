"""What is done with a trained encoder beside trials: one file each, found by its name (`evaluate --task`)."""
