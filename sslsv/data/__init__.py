"""Training data: lists, audio files, augmentation, views, the order of samples, the Ray Data pipeline."""
