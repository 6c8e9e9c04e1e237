"""ONNX graphs: export, caching of traced graphs, streaming networks, uint8 input, and source lines of nodes."""
