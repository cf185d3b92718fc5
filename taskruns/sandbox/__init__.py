"""A simulated Arize AX over HTTP, for the demo and the end-to-end tests. It imports nothing from the panel.

`python -m taskruns.sandbox --help` describes how to start it and what it answers. `server.py` reads requests.
`simulation.py` applies `faults.py` and passes them to `api.py` (Arize's own routes) or `controls.py` (test routes).
Both use `world.py`, whose runs follow the plans of `schedule.py`; `wire.py` writes the answers.
"""
