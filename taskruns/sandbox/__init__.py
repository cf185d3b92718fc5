"""A simulated Arize AX over HTTP, for the demo and the end-to-end tests. Imports nothing of the panel.

`python -m taskruns.sandbox --help` starts it; `server.py` is the reference of what it answers.
"""
