"""Weak labels in, better labels out, and the audit of both."""
