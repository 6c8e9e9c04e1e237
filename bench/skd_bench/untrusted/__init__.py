"""What comes from strangers: text that is shown, and JSON that is read."""
