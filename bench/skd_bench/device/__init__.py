"""This machine: device info, throttling and energy."""
