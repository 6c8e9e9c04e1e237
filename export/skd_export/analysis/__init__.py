"""Checks of exported files: parity with the trained network, and which operators the runtimes execute."""
