"""Train: the loop, one step, its state, validation, optimizer and schedules."""
