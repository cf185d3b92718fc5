"""The audit log: sign-ins and refused attempts, reading and export, verification."""

from .actions import forget_old, latest_failed, run_verification, stalled, start_verification, status, verify
from .anchors import AnchorFile, NoAnchors
from .denials import (
    Attempt,
    record_denial,
    record_failed_sign_in,
    record_sign_in,
    record_sign_out,
    record_suppressed,
)
from .export import Export, csv_lines, export, jsonl_lines, record_reading
from .tallies import record_counted
from .thinning import thin_anchors
from .verification import Report

__all__ = [
    "AnchorFile",
    "Attempt",
    "Export",
    "NoAnchors",
    "Report",
    "csv_lines",
    "export",
    "forget_old",
    "jsonl_lines",
    "latest_failed",
    "record_counted",
    "record_denial",
    "record_failed_sign_in",
    "record_reading",
    "record_sign_in",
    "record_sign_out",
    "record_suppressed",
    "run_verification",
    "stalled",
    "start_verification",
    "status",
    "thin_anchors",
    "verify",
]
