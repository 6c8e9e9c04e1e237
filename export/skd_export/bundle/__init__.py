"""Bundles: the folder that goes to a device, and its README."""
