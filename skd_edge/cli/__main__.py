"""``python -m skd_edge.cli`` is ``skd-edge``; torchrun needs a module."""

from skd_edge.cli.main import main

main()
