"""The labels of training clips: their sources, their cleaning to pseudo-labels, and the audit of both."""
