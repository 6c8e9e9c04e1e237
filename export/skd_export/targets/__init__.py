"""Formats beyond plain ONNX: TensorRT engines, Triton model repositories, and LiteRT files."""
