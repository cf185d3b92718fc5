"""Finds the people and tokens that a filter names, then the runs that they started or cancelled. People are few, runs
are many.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from django.db.models import (
    Case,
    Exists,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    TextField,
    UUIDField,
    Value,
    When,
)

from taskruns.models import CANCEL_FACTS, ArizeUser, Cancellation, Outcome, Run, Status, Team, Token, Trigger, User
from taskruns.models.folded import contains_folded, fold
from taskruns.models.prepared import Prepared, Slot

_CREDIT = {outcome: facts.credit for outcome, facts in CANCEL_FACTS.items() if facts.has_row}

_MADE_BY = " (made by "  # in the label of a token
MOST_EACH = 4  # users of Arize whose runs are read in parts
MOST_IN_PANEL = 200  # of their runs that were started in the panel


@dataclass(frozen=True, slots=True)
class People:
    """`arize_ids`: of users of Arize. `users`: of the panel. `tokens`: of scripts. `label`: as cancels and starts have
    it, also those of accounts that are gone, and of jobs; empty for none.
    """

    arize_ids: tuple[str, ...] = ()
    users: tuple[UUID, ...] = ()
    tokens: tuple[UUID, ...] = ()
    label: str = ""


def named(team: Team, text: str) -> People:
    """People with this e-mail address, id or name, and tokens with this name. Each word of the text must be a word of
    the name.
    """
    wanted = fold(text)
    in_arize = _like_in_arize().rows(team=team.pk, word=_longest(wanted), arize_id=text)
    ids = [id_ for id_, name, email in in_arize if id_ == text or _is(wanted, name, email)]
    return People(tuple(dict.fromkeys([*ids, text])), _users(wanted), _tokens(team, text), text)


def named_in_panel(team: Team, text: str) -> People:
    """As `named`, without the users of Arize."""
    return People(users=_users(fold(text)), tokens=_tokens(team, text), label=text)


def _users(wanted: str) -> tuple[UUID, ...]:
    return tuple(pk for pk, *names in _like_in_panel().rows(word=_longest(wanted)) if _is(wanted, *names))


def _tokens(team: Team, text: str) -> tuple[UUID, ...]:
    """By name, or by the label that stands on cancels and starts."""
    name = fold(text.partition(_MADE_BY)[0])
    found = _like_tokens().rows(team=team.pk, word=_longest(name))
    if _MADE_BY in text:
        return tuple(pk for pk, known, maker in found if fold(f"{known}{_MADE_BY}{maker})") == fold(text))
    return tuple(pk for pk, known, _ in found if _is(name, known, known))


@cache
def _like_tokens() -> Prepared[tuple[UUID, str, str]]:
    named_so = contains_folded("name", Slot("word", TextField()))
    of_team = Token.objects.filter(named_so, team=Slot("team", UUIDField()))
    return Prepared(of_team.values_list("pk", "name", "maker_label"))


@cache
def _like_in_arize() -> Prepared[tuple[str, str, str]]:
    found = _like() | Q(arize_id=Slot("arize_id", TextField()))
    of_team = ArizeUser.objects.filter(found, team=Slot("team", UUIDField()))
    return Prepared(of_team.values_list("arize_id", "name", "email"))


@cache
def _like_in_panel() -> Prepared[tuple[UUID, str, str]]:
    return Prepared(User.objects.filter(_like()).values_list("pk", "name", "email"))


def _like() -> Q:
    """Those who may have the name; `_is` decides."""
    word = Slot("word", TextField())
    return contains_folded("name", word) | contains_folded("email", word)


def _longest(wanted: str) -> str:
    return max(wanted.split(), key=len, default="")


def _is(wanted: str, name: str, email: str) -> bool:
    """Never for a text that has only accents."""
    words = set(wanted.split())
    return bool(words) and (fold(email) == wanted or words <= set(fold(name).split()))


def started_by(team: Team, people: People) -> Iterable[Q]:
    """The runs that these people started in Arize, and in the panel: there, Arize only knows the owner of the key."""
    if people.arize_ids:
        yield Q(team=team, created_by_user_id__in=people.arize_ids)
    yield Q(pk__in=in_panel(team, people).values("run"))


def started_by_each(team: Team, people: People) -> Sequence[Q]:
    """The same runs without overlap: those of each user of Arize, in the order of an index, and the others. Nothing if
    they are many.
    """
    others = _first_started_by(team, people, most=MOST_IN_PANEL + 1)
    if len(people.arize_ids) > MOST_EACH or len(others) > MOST_IN_PANEL:
        return ()
    of_arize = [Q(team=team, created_by_user_id=id_) for id_ in people.arize_ids]
    return [*of_arize, Q(pk__in=others) & ~Q(created_by_user_id__in=people.arize_ids)] if others else of_arize


def _first_started_by(team: Team, people: People, *, most: int) -> list[UUID]:
    prepared = _in_panel_of_so_many(len(people.users), len(people.tokens))
    return prepared.rows(most=most, team=team.pk, label=people.label, **_numbered(people))


@cache
def _in_panel_of_so_many(users: int, tokens: int) -> Prepared[UUID]:
    starts = Trigger.objects.filter(_by_slots(users, tokens), task__team=Slot("team", UUIDField()), run__isnull=False)
    return Prepared(starts.order_by().values_list("run", flat=True).distinct())


def _by_slots(users: int, tokens: int) -> Q:
    """As `_by`."""
    by = Q(person_label=Slot("label", TextField()))
    if users:
        by |= Q(person__pk__in=[Slot(f"user_{number}", UUIDField()) for number in range(users)])
    if tokens:
        by |= Q(token__pk__in=[Slot(f"token_{number}", UUIDField()) for number in range(tokens)])
    return by


def _numbered(people: People) -> dict[str, UUID]:
    """The value of each slot."""
    users = {f"user_{number}": pk for number, pk in enumerate(people.users)}
    return users | {f"token_{number}": pk for number, pk in enumerate(people.tokens)}


def in_panel(team: Team, people: People) -> QuerySet[Trigger]:
    """The starts of runs by these people in the panel."""
    return Trigger.objects.filter(_by(people), task__team=team, run__isnull=False)


def cancelled_by(team: Team, people: People) -> Q:
    """The runs that these people cancelled: Arize confirmed it, or the run is cancelled and nobody else's cancel is
    more likely to have ended it (`CANCEL_FACTS`).
    """
    return Q(pk__in=_cancelled(team.pk, _by(people)))


def first_cancelled_by(team: Team, people: People, *, most: int) -> list[UUID]:
    """The ids of these runs, of as many as `most`."""
    prepared = _cancelled_by_so_many(len(people.users), len(people.tokens))
    return prepared.rows(most=most, team=team.pk, label=people.label, **_numbered(people))


@cache
def _cancelled_by_so_many(users: int, tokens: int) -> Prepared[UUID]:
    theirs = _cancelled(Slot("team", UUIDField()), _by_slots(users, tokens))
    return Prepared(theirs.order_by().values_list("run", flat=True).distinct())


def _cancelled(team: UUID | Slot, by: Q) -> QuerySet[Cancellation, Any]:
    """Without a join: the planner might begin with all runs of the team."""
    of_team = Run.objects.filter(pk=OuterRef("run"), team=team)
    theirs = Cancellation.objects.filter(by).alias(credit=_credit())
    better: Any = Q(credit__gt=OuterRef("credit")) | Q(
        credit=OuterRef("credit"), requested_at__gt=OuterRef("requested_at")
    )
    others = Cancellation.objects.filter(run=OuterRef("run")).alias(credit=_credit()).filter(better)
    credited = Q(Exists(of_team.filter(status=Status.CANCELLED)), credit__gt=0) & ~Exists(others)
    return theirs.filter(Q(outcome=Outcome.CONFIRMED) | credited, Exists(of_team)).values("run")


def _credit() -> Case:
    whens = [When(outcome=outcome, then=Value(credit)) for outcome, credit in _CREDIT.items()]
    return Case(*whens, default=Value(0), output_field=IntegerField())


def _by(people: People) -> Q:
    by_account = Q(person__in=people.users) | Q(token__in=people.tokens)
    return by_account | Q(person_label=people.label) if people.label else by_account
