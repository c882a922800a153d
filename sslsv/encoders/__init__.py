"""Encoders: waveforms (B, T) -> embeddings (B, D)."""

from sslsv.encoders.thin_resnet34 import ThinResNet34

ENCODERS = {"thin_resnet34": ThinResNet34}

__all__ = ["ENCODERS", "ThinResNet34"]
