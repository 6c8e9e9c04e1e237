"""Losses, substage training, one cascade job."""
