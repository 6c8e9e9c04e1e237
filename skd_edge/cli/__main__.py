"""``python -m skd_edge.cli`` runs ``skd-edge``; torchrun starts a module and not a console script."""

from skd_edge.cli.main import main

main()
