"""TensorRT and TensorRT-RTX: building engines, their metadata, and running them."""
