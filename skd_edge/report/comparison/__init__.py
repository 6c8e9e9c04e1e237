"""Compares several bundles, runs or measurements, and checks them against a baseline in CI."""
