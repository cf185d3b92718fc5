"""Settings of a sandbox whose clock is stopped."""

from datetime import UTC, datetime
from typing import Any

from taskruns.sandbox.simulation import Settings

EPOCH = datetime(2026, 9, 1, 12, tzinfo=UTC)
KEYS = {"ak-full-key-1": (), "ak-support-key-2": ("support-bot",), "ak-pair-key-3": ("sales-copilot", "fraud-watch")}


def settings(**changes: Any) -> Settings:
    return Settings(**{"keys": KEYS, "tasks": 12, "speed": 0, "epoch": EPOCH, **changes})
