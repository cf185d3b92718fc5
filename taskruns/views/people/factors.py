"""The pages on which a person sets up and removes their second factors."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from allauth.mfa.models import Authenticator
from allauth.mfa.totp.forms import ActivateTOTPForm
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from taskruns.access import recent_auth
from taskruns.access.gate import PanelRequest, actor_of, first_factor_enough, mine, requires_recent_auth
from taskruns.allauth_compat import begin_registration, clear_totp_secret
from taskruns.encryption import DecryptionFailed
from taskruns.forms.fields import posted
from taskruns.models import SiteRole
from taskruns.pages.factors import FactorsPage, codes_page, factor_row, qr_code
from taskruns.services.people import factors
from taskruns.views.user_errors import shown_as_message

from .factor_checks import MfaAdapter, PasskeyForm, use_up

_AFTER = "after_factor"  # session key: the page to open afterwards


@first_factor_enough
@require_safe
def listing(request: PanelRequest) -> HttpResponse:
    _keep_next(request)
    page = _page(request)
    return render(request, "taskruns/people/factors.html", {"page": page})


@requires_recent_auth
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables("codes")
def totp(request: PanelRequest) -> HttpResponse:
    """GET shows a new secret; POST with a code from it adds the app."""
    if factors.of(request.user).filter(type=Authenticator.Type.TOTP).exists():
        messages.info(request, "You already have an authenticator app. Remove it before you add another one.")
        return redirect("factors")
    form = ActivateTOTPForm(posted(request), user=request.user)
    if form.is_valid():
        use_up(request.user, form.cleaned_data["code"])
        codes = factors.add_totp(request.user, secret=form.secret, by=actor_of(request))
        clear_totp_secret(request)
        return _added(request, "Authenticator app added.", Authenticator.Type.TOTP, codes)
    form.fields["code"].widget.attrs["autofocus"] = True
    url = MfaAdapter().build_totp_url(request.user, form.secret)
    context = {"form": form, "qr": qr_code(url), "secret": parse_qs(urlsplit(url).query)["secret"][0]}
    return _form_page(request, "factor_totp", context)


@requires_recent_auth
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables("codes")
def passkey(request: PanelRequest) -> HttpResponse:
    """GET sends the options to the browser; POST brings the passkey's answer."""
    form = PasskeyForm(posted(request), user=request.user)
    if form.is_valid():
        wanted = form.cleaned_data
        codes = factors.add_passkey(
            request.user, name=wanted["name"], credential=wanted["credential"], by=actor_of(request)
        )
        return _added(request, "Passkey added.", Authenticator.Type.WEBAUTHN, codes)
    options = json.dumps(begin_registration(request.user, passwordless=False))
    return _form_page(request, "factor_passkey", {"form": form, "options": options})


@requires_recent_auth
@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: PanelRequest, factor_id: int) -> HttpResponse:
    """GET asks for confirmation; POST removes."""
    factor: Authenticator = mine(request, Authenticator.objects.filter(type__in=factors.SECOND), factor_id)
    row = factor_row(factor, factors.LABELS[factor.type])
    if request.method == "POST":
        with shown_as_message(request):
            must_keep_one = recent_auth.must_keep_second_factor(request.user)
            is_removed = factors.remove(
                factor,
                request.user,
                must_keep_one=must_keep_one,
                session_key=request.session.session_key or "",
                by=actor_of(request),
            )
            if not factors.has_second(request.user):
                recent_auth.forget_factors(request)
            if is_removed:
                messages.success(request, f"{row.word.capitalize()} removed.")
            return redirect("factors")
    return _form_page(request, "factor_remove", {"row": row})


@requires_recent_auth
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables("codes")
def recovery_codes(request: PanelRequest) -> HttpResponse:
    """GET asks for confirmation; POST creates new codes and shows them once."""
    if not factors.has_second(request.user):
        messages.info(request, "Recovery codes replace a lost second factor. Add a second factor first.")
        return redirect("factors")
    if request.method == "POST":
        codes = factors.renew_recovery_codes(request.user, by=actor_of(request))
        return _codes_page(request, codes)
    return render(request, "taskruns/people/recovery_codes.html", {})


def _page(request: PanelRequest) -> FactorsPage:
    rows = list(factors.of(request.user))
    kinds = {row.type for row in rows}
    try:
        left: int | None = factors.codes_left(request.user)
    except DecryptionFailed:
        left = None
    return FactorsPage(
        rows=tuple(factor_row(row, factors.LABELS[row.type]) for row in rows if row.type in factors.SECOND),
        has_app=Authenticator.Type.TOTP in kinds,
        has_codes=Authenticator.Type.RECOVERY_CODES in kinds,
        codes_left=left,
        is_required=recent_auth.must_keep_second_factor(request.user),
        is_missing=recent_auth.lacks_second_factor(request, request.user),
        role=SiteRole(request.user.site_role).label if request.user.site_role else "manager",
    )


def _added(request: PanelRequest, text: str, kind: str, codes: list[str]) -> HttpResponse:
    """Adding a factor also counts as using it."""
    recent_auth.note_factor(request, request.user, kind)
    messages.success(request, text)
    target = _take_next(request)
    return _codes_page(request, codes, target) if codes else redirect(target or "factors")


@sensitive_variables("codes", "page", "context")
def _codes_page(request: PanelRequest, codes: list[str], target: str = "") -> HttpResponse:
    page = codes_page(codes, email=request.user.email, now=timezone.now())
    context = {"page": page, "codes": codes, "next": target}
    return render(request, "taskruns/people/recovery_codes.html", context)


def _form_page(request: HttpRequest, page: str, context: dict[str, Any]) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    return render(request, f"taskruns/people/{page}.html", context, status=status)


def _keep_next(request: PanelRequest) -> None:
    """Remember the page that required a second factor, to return to it once the factor is added."""
    target = request.GET.get("next", "")
    if url_has_allowed_host_and_scheme(target, allowed_hosts=None) and target.startswith("/"):
        request.session[_AFTER] = target


def _take_next(request: PanelRequest) -> str:
    return str(request.session.pop(_AFTER, ""))
