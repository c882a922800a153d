"""Tensors and ranks: collectives, batch norm over all ranks, layers that several networks share."""

SAMPLE_RATE = 16_000  # Hz, of every waveform in the package
