"""Baselines for a few checked clips and many weak labels, one file each."""
