"""Recipes: the settings of a run as pydantic models, and reading them from YAML files."""
