"""Display models of the pages about teams, and the first steps of a new team."""

from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db.models import Count, Exists, OuterRef
from django.urls import reverse
from django.utils import timezone

from taskruns.models import BatchState, CancelBatch, Credential, EmergencyStop, Invitation, Membership, Run, Team, Token
from taskruns.permissions import Access, Action
from taskruns.services.invitations import Invited

from .batch_words import stopping_batches
from .values import Link, Moment, counted


@dataclass(frozen=True, slots=True)
class TeamCard:
    name: str
    slug: str
    url: str
    role: str
    active: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """`stops`: which tokens stop working when the member leaves, as a sentence."""

    id: str
    email: str
    name: str
    role: str
    notes: tuple[str, ...]
    since: Moment | None
    is_self: bool
    stops: str = ""


@dataclass(frozen=True, slots=True)
class InvitationRow:
    id: str
    email: str
    role: str
    expires: Moment | None
    by_mail: bool = False
    mailed: Moment | None = None


@dataclass(frozen=True, slots=True)
class MembersPage:
    """`roles` are (value, label) pairs. `link`: a new invitation link, shown only once and never stored."""

    team: str
    slug: str
    members: tuple[MemberRow, ...]
    invitations: tuple[InvitationRow, ...]
    roles: tuple[tuple[str, str], ...]
    link: str = ""
    link_email: str = ""


def link_of(invited: Invited) -> str:
    """The link with which a new person joins the team; empty for a person who already has an account."""
    return str(settings.SITE_URL) + reverse("invitation", args=[invited.token]) if invited.token else ""


def consequences_of_archiving(team: Team) -> tuple[str, ...]:
    """What happens to what the team has now."""
    runs = Run.objects.filter(team=team, rank=1).count()
    batches = CancelBatch.objects.filter(team=team, state=BatchState.WORKING)
    keys = Credential.objects.live().filter(team=team).count()
    tokens = Token.objects.live(timezone.now()).filter(team=team).count()
    members = Membership.objects.filter(team=team).count()
    is_stopped = EmergencyStop.objects.holding().filter(team=team).exists()
    found = (
        counted(runs, "active run keeps", "active runs keep", "running in Arize, out of reach of this panel."),
        *stopping_batches(batches),
        "The emergency stop no longer cancels new runs." if is_stopped else "",
        counted(keys, "API key is", "API keys are", "destroyed here, but not revoked in Arize."),
        counted(tokens, "token stops", "tokens stop", "working, and so do the scripts that use them."),
        counted(members, "member loses", "members lose", "access immediately."),
    )
    return tuple(text for text in found if text)


@dataclass(frozen=True, slots=True)
class Step:
    link: Link
    is_done: bool


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """In order. `cookie`: the browser sends it when the person has dismissed them."""

    steps: tuple[Step, ...]
    cookie: str = ""

    @property
    def next_step(self) -> Step | None:
        return next((step for step in self.steps if not step.is_done), None)

    @property
    def done(self) -> int:
        return sum(step.is_done for step in self.steps)


# Older teams need no first steps, and their boards run no query for them.
NEW_FOR = timedelta(days=30)


def cookie_of_dismissal(team: Team) -> str:
    """The name of the cookie that the script sets when a person dismisses the first steps. It only hides a hint, so the
    browser may decide.
    """
    return f"no-first-steps-{team.slug}"


def first_steps(team: Team, access: Access) -> FirstSteps | None:
    """The steps, for people who can take them, while the team is new and a step is left. Makes at most one query."""
    may = access.may(Action.CREDENTIALS_MANAGE) and access.may(Action.MEMBERS_MANAGE)
    if not may or team.created_at < timezone.now() - NEW_FOR:
        return None
    has_key, has_answer, has_runs, has_others = _which_are_done(team)
    steps = (
        _step("Add an Arize API key", "credential-new", team, is_done=has_key),
        _step("Test the key", "credentials", team, is_done=has_answer),
        Step(Link("See the first runs below", ""), has_runs),
        _step("Invite a colleague", "members", team, is_done=has_others),
    )
    return None if all(step.is_done for step in steps) else FirstSteps(steps, cookie_of_dismissal(team))


def _which_are_done(team: Team) -> tuple[bool, bool, bool, bool]:
    its = {"team": OuterRef("pk")}
    keys = Credential.objects.live().filter(**its)
    asked = Team.objects.filter(pk=team.pk).annotate(
        has_key=Exists(keys),
        has_answer=Exists(keys.filter(last_good_at__isnull=False)),
        has_runs=Exists(Run.objects.filter(**its)),
        has_invited=Exists(Invitation.objects.filter(revoked_at=None, **its)),
        members=Count("memberships"),
    )
    names = ("has_key", "has_answer", "has_runs", "has_invited", "members")
    key, answer, runs, invited, members = asked.values_list(*names).get()
    return key, answer, runs, invited or members > 1


def _step(text: str, page: str, team: Team, *, is_done: bool) -> Step:
    return Step(Link(text, reverse(page, args=[team.slug])), is_done)
