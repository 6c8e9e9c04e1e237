"""Decides what to train and what to ship: candidates, search over cascades, estimated durations, selection."""
