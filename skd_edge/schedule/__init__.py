"""The tree of cascades, what to train next, the choice."""
