"""All people of the panel, as those who look after them see them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from allauth.socialaccount.models import SocialAccount
from django.db.models import Max, Prefetch, Q, QuerySet

from taskruns.models import AuditEvent, Membership, User

from . import factors, sessions

PAGE = 50
LAST_SIGN_INS = 10


@dataclass(frozen=True, slots=True)
class Found:
    """One page, and the e-mail after which the next one begins, if there is one."""

    people: list[User]
    signed_in_at: dict[str, datetime]
    next_after: str


@dataclass(frozen=True, slots=True)
class Dossier:
    """`sign_ins` are rows of the log, newest first. `live_sessions` are counted, `factors` are words."""

    person: User
    memberships: list[Membership]
    sign_ins: list[AuditEvent]
    live_sessions: int
    factors: list[str]
    has_identity: bool


def search(text: str, *, after: str = "") -> Found:
    """People with this text in their e-mail or name, by e-mail, with their teams."""
    wanted = Q(email__icontains=text) | Q(name__icontains=text) if text else Q()
    theirs = Membership.objects.filter(team__archived_at=None).select_related("team").order_by("team__name")
    rows = User.objects.filter(wanted, email__gt=after).order_by("email")
    people = list(rows.prefetch_related(Prefetch("memberships", theirs))[: PAGE + 1])
    has_more = len(people) > PAGE
    people = people[:PAGE]
    return Found(people, _last_sign_ins(people), people[-1].email if has_more else "")


def dossier(person: User) -> Dossier:
    memberships = Membership.objects.filter(user=person, team__archived_at=None).select_related("team")
    return Dossier(
        person=person,
        memberships=list(memberships.order_by("team__name")),
        sign_ins=list(_sign_ins([person]).order_by("-seq")[:LAST_SIGN_INS]),
        live_sessions=len(sessions.live(person)),
        factors=[factors.WORDS[row.type] for row in factors.of(person)],
        has_identity=SocialAccount.objects.filter(user=person).exists(),
    )


def _last_sign_ins(people: Iterable[User]) -> dict[str, datetime]:
    """Person's id -> the newest sign-in of the log."""
    return dict(_sign_ins(people).values_list("target_id").annotate(Max("at")).order_by())


def _sign_ins(people: Iterable[User]) -> "QuerySet[AuditEvent]":
    ids = [str(person.pk) for person in people]
    return AuditEvent.objects.filter(chain="site", target_id__in=ids, event="auth.sign_in", outcome="done")
