"""Paths in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CANCEL_ANSWER = ROOT / "tests" / "fixtures" / "cancel_answer.json"
