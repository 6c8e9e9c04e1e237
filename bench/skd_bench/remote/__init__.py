"""Measuring on another machine: packs, ssh, and the lock of a device."""
