"""Pseudo-labels: which weak labels are probably wrong, and what training uses instead."""
