"""Trains jobs: the job graph of a recipe, and the executors that train it."""
