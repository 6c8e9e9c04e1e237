"""Several bundles, runs or measurements side by side, and the gate that a team's CI puts on them."""
