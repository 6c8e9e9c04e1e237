"""``skd-edge export``: a network from elsewhere becomes a bundle that was compared with it on real clips."""
