"""The training loop, one training step, its state, validation, optimizer and schedules."""
