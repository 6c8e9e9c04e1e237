"""Trains one job of a cascade: its specification, loss terms, teacher outputs, training loop and checkpoints."""
