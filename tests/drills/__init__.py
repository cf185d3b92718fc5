"""Drills: what operators do with a panel, done with the real programs. `make drills`, or `python -m tests.drills NAME`.

Each drill has a time limit and says what it proved. It uses the commands of `docs/operations.md` and the files of
`deploy/` themselves, so neither can be wrong unnoticed. A drill that needs a program or a server that this machine does
not have says so, and is not counted as done.
"""
