"""Augmentations, one per file. They make views of a recording sound as if recorded in different places."""
