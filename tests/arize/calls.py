"""The documented errors, and a helper that catches them."""

import traceback

import pytest

from taskruns.arize import errors
from taskruns.arize.errors import ArizeError

HOST = "https://api.arize.com"
KEY = "ak-canary-7f3d9b2e51c84a60"
DOCUMENTED = [
    (400, errors.BadRequest),
    (401, errors.Unauthorized),
    (403, errors.Forbidden),
    (404, errors.NotFound),
    (409, errors.Conflict),
    (422, errors.Unprocessable),
    (429, errors.RateLimited),
    (500, errors.ServerError),
    (501, errors.ServerError),
    (502, errors.ServerError),
    (503, errors.ServerError),
    (504, errors.ServerError),
    (301, errors.UnexpectedAnswer),
    (302, errors.UnexpectedAnswer),
    (307, errors.UnexpectedAnswer),
    (308, errors.UnexpectedAnswer),
    (303, errors.UnexpectedAnswer),
    (402, errors.UnexpectedAnswer),
    (418, errors.UnexpectedAnswer),
]


def failure(call, *args, **kwargs):
    with pytest.raises(ArizeError) as caught:
        call(*args, **kwargs)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown + repr(vars(caught.value))
    assert caught.value.__cause__ is None
    return caught.value
