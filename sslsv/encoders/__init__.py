"""Encoders, one per file; `sslsv.registry` finds each by its file name."""
