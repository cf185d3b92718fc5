"""A simulated Arize AX over HTTP, for the demo and the end-to-end tests. Imports nothing of the panel.

`python -m taskruns.sandbox --help` starts it and shows what it answers. `server.py` reads requests, `simulation.py`
passes them to `api.py` (what Arize has) or `controls.py` (what tests need besides), by way of `faults.py`. Both ask
`world.py`, whose runs live as `schedule.py` has planned them; `wire.py` writes the answers.
"""
