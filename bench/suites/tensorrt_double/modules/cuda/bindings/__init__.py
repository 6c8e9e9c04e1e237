"""Double of the package `cuda.bindings`."""
