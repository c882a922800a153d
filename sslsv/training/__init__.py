"""The training loop: one step, its state, validation, optimizer and schedules."""
