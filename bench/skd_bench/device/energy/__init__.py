"""Energy counters of processors, GPUs and boards."""
