"""Losses, substage training, one cascade leg."""
