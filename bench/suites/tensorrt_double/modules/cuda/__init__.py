"""Double of the package `cuda`."""
