"""Tasks for trained encoders besides trials (`evaluate --task NAME` runs NAME.py), and pseudo-label loops."""
