"""Turns a trained network into files: ONNX export, lower precisions, parity checks, and bundles for devices."""
