"""The foundry: a trained module in, files out (ONNX, precision, parity, bundle)."""
