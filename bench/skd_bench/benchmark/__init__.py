"""Latency, throughput and energy of artefacts on this machine."""
