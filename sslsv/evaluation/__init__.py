"""Evaluate encoders on trial lists (scores, metrics, intervals), apply them to recordings, export them."""
