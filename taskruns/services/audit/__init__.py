"""The audit log: sign-ins and refused attempts, reading and export, verification."""

from .anchor_file import NoAnchors
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
from .verification import Report
from .verification_job import latest_failed, run_verification, stalled, start_verification, status, verify

__all__ = [
    "Attempt",
    "Export",
    "NoAnchors",
    "Report",
    "csv_lines",
    "export",
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
    "verify",
]
