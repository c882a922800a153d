"""The training data: lists, audio files, augmentation, views, the order of samples, and the Ray Data pipeline."""
