"""Metrics from logits and labels: accuracy, agreement, rejection, and events in long videos."""
