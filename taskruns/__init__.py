"""Taskruns: watch and cancel Arize AX task runs together."""

__version__ = "0.1.0"
