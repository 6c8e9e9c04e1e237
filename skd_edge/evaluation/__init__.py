"""Exports candidates, measures them on a device, and scores their files on clips."""
