"""The address that takes Arize's webhook, for programs only: no session, no cookie, no page."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from taskruns import jobs
from taskruns.access.gate import anyone
from taskruns.services.channels import hooks
from taskruns.services.channels.hooks import Incoming, Taken
from taskruns.services.mirror.nudges import nudge

_ANSWERS = {
    Taken.NUDGED: (202, "taken\n"),
    Taken.SEEN: (200, "taken before\n"),
    Taken.OTHER: (200, "not an event that this panel reads\n"),
    Taken.UNKNOWN: (404, "not found\n"),
    Taken.REFUSED: (401, "unauthorized\n"),
    Taken.TOO_MANY: (429, "too many\n"),
}


# Without a form token: no cookie counts here, so another site has nothing to use.
@csrf_exempt
@anyone
@require_POST
def arize(request: HttpRequest, token: str) -> HttpResponse:
    found = hooks.take(token, Incoming(request.headers, request.body))
    if found.taken is Taken.NUDGED and found.team is not None:
        for credential_id in nudge(found.team, found.ids):
            jobs.wake(credential_id)
    status, text = _ANSWERS[found.taken]
    return HttpResponse(text, content_type="text/plain", status=status, headers={"Cache-Control": "no-store"})
