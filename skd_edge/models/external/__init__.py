"""Teachers that were not built by skd-edge: networks of other libraries, ONNX files, files of logits, ensembles."""
