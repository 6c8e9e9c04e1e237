"""The clip store: every video decoded once, by a pool of processes, into one memory-mapped array."""
