"""skd-edge: staged knowledge distillation of video classifiers for edge devices (after arXiv 2307.05201)."""

from skd_edge.version import VERSION as __version__

__all__ = ["__version__"]
