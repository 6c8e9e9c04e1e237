"""Losses, one file each: a plain function on tensors; each returns a scalar, mean over the batch."""
