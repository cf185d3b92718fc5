"""Cancelling many runs: a frozen list, worked off in short portions, each run in the order of `cancellations`."""

from .freezing import create_batch, freeze, start

__all__ = ["create_batch", "freeze", "start"]
