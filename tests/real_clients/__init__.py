"""Arize's own clients, unmodified, against the panel: `make test-clients`. They are not part of `make test`.

`stage.py` starts the processes and makes tokens, `clients.py` runs the clients, `programs/` holds what runs in their
environments. Each step is done directly at the simulated Arize first, with the raw key, and then through the panel.
"""
