"""Closes the cursor of a statement that failed, at once and in the thread that used it.

Django keeps it in the frames of the exception, which are a reference cycle. So the garbage collector of any thread
might free it. On SQLite that waits for the cursor's connection. If that one waits for the write lock, and the thread
that collects holds it, all writers wait until their time limit (30 s).
"""

from collections.abc import Callable
from typing import Any

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created


def close_failed_cursors() -> None:
    """For each connection that is made from now on."""
    connection_created.connect(_wrap, dispatch_uid="close_failed_cursors")


def _close_failed(
    execute: Callable[..., Any],
    sql: str,
    params: Any,
    many: bool,  # noqa: FBT001 - the signature of Django
    context: dict[str, Any],
) -> Any:
    try:
        return execute(sql, params, many, context)
    except DatabaseError:
        context["cursor"].close()
        raise


def _wrap(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
    if connection.vendor == "sqlite" and _close_failed not in connection.execute_wrappers:
        connection.execute_wrappers.append(_close_failed)
