"""Export model."""
