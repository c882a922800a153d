"""Operations on tensors and ranks: collectives, batch norm over all ranks, whitening, shared layers."""

SAMPLE_RATE = 16_000  # Hz, for every waveform in the package
