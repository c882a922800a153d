"""Tensors and ranks: collectives, batch norm over all ranks, layers that several networks share."""
