"""What pages that update themselves have in common."""

from django.db import transaction
from django.http import HttpResponse
from django.utils.cache import patch_vary_headers

from taskruns import jobs
from taskruns.models import Team
from taskruns.services.mirror import note_attention


def watch(*teams: Team) -> None:
    """Note the attention, and wake the keys that now are due."""
    for credential_id in note_attention(teams):
        transaction.on_commit(lambda key=credential_id: jobs.wake(key))  # type: ignore[misc]


def fresh(response: HttpResponse) -> HttpResponse:
    """A page and its fragment share a url."""
    patch_vary_headers(response, ["HX-Request"])
    return response


def tagged(response: HttpResponse, etag: str) -> HttpResponse:
    response["ETag"] = f'"{etag}"'
    return fresh(response)
