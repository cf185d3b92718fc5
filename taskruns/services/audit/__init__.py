"""Reading and keeping the audit log, by what people do with it."""

from .anchor_file import NoAnchors
from .denials import Try, record_denial, record_left_out
from .export import csv_lines, export, jsonl_lines
from .readings import record_reading
from .sign_ins import record_failed_sign_in, record_sign_in, record_sign_out
from .verification import Report
from .verification_job import ask_for_verification, latest_failed, run_verification, stalled, status, verify

__all__ = [
    "NoAnchors",
    "Report",
    "Try",
    "ask_for_verification",
    "csv_lines",
    "export",
    "jsonl_lines",
    "latest_failed",
    "record_denial",
    "record_failed_sign_in",
    "record_left_out",
    "record_reading",
    "record_sign_in",
    "record_sign_out",
    "run_verification",
    "stalled",
    "status",
    "verify",
]
