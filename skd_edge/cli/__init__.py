"""The command line, ``skd-edge``: `main` collects the commands, the other modules define them."""
