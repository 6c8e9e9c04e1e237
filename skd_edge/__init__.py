"""skd-edge: staged knowledge distillation of video classifiers for edge devices (after arXiv 2307.05201)."""

__version__ = "0.1.0"
