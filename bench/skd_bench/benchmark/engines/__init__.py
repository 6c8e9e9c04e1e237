"""What happens to files where they shall run: compiled, run once, scored."""
