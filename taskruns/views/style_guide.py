"""`/styleguide/`: the design tokens and components on one page. Only with DEBUG."""

from django.conf import settings
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, signed_in
from taskruns.forms.people import ProfileForm
from taskruns.pages.style_guide import sample_rows, token_groups


@signed_in
@require_safe
def style_guide(request: PanelRequest) -> HttpResponse:
    if not settings.DEBUG:
        raise Http404
    wrong = ProfileForm({"time_zone": "Mars/Olympus"})
    tones = ("success", "info", "warning", "error")
    context = {"groups": token_groups(), "rows": sample_rows(), "form": ProfileForm(), "wrong": wrong, "tones": tones}
    return render(request, "taskruns/style_guide.html", context)
