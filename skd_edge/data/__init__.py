"""The clips of a recipe: listed (``sources``), decoded into a store (``store``), sampled and augmented."""
