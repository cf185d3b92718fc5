"""Reads the list of tasks, space by space, because a task does not say which space it is in.

Once a minute; while a board is open or an emergency stop is active, as often as an eighth of the rate limit allows. So
a key of many tasks or spaces lists less often.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db.models import UUIDField
from django.utils import timezone

from taskruns.arize.errors import ArizeError, Forbidden, ListRepeats, NotFound
from taskruns.arize.wire import WireSpace, WireTask
from taskruns.models import Credential, Task, Team
from taskruns.models.prepared import PreparedUpdate, Slot, TimeSlot, update_row
from taskruns.models.stamps import is_recent
from taskruns.models.tasks import NO_LONGER_LISTED, NO_USABLE_KEY, STILL_LISTED
from taskruns.services.credentials.budget import Kind
from taskruns.services.runs.observations import fits_an_index

from .reader import ITEM_ERRORS, MOST_SERVER_ERRORS, Reader
from .schedule import team_has_attention
from .staleness import FAILED_WAITS

READ_EVERY = timedelta(minutes=1)
# Spaces rarely change, so not each listing of tasks begins with a list of spaces.
SPACES_EVERY = timedelta(seconds=30)
MOST_SPACE_PAGES = 20  # in one round; 2,000 spaces
CHUNK = 100
REPEATS = (
    "The task list of Arize repeats itself, so some tasks may be missing here. The tasks listed before stay on the "
    "board. The panel lists them again every minute; if this lasts, tell Arize's support."
)
FAILED = (
    "Arize does not list the tasks now, so new tasks may be missing here. The runs of the known tasks are still read. "
    "The panel tries again every 30 seconds."
)


def is_due(reader: Reader) -> bool:
    """A list that repeats itself is not read more often, because each attempt costs calls and shows nothing new."""
    credential = reader.credential
    failed_at = credential.listing_at.get("failed_at")
    if failed_at and is_recent(datetime.fromisoformat(failed_at), timezone.now(), FAILED_WAITS):
        return False
    if not is_recent(credential.tasks_read_at, timezone.now(), READ_EVERY):
        return True
    return not credential.list_problem and reader.budget.may_list() and team_has_attention(credential)


def read_tasks(reader: Reader, *, everything: bool) -> tuple[int, int]:
    """Mirror every task that the key lists. Returns (tasks listed, tasks new or changed)."""
    listing = _Listing(reader)
    if reader.is_over:
        return 0, 0
    if everything or not (_knows_spaces(reader.credential) or _is_interrupted(reader.credential)):
        listing.are_all_spaces = _read_spaces(reader)
    if reader.stopped_by is not None:
        return 0, 0
    listing.read_all()
    reader.list_error = listing.error
    if listing.resume_at or listing.error:
        Credential.objects.filter(pk=reader.credential.pk).update(listing_at=listing.resume_at)
    else:
        _note_listed(reader.credential, listing)
    changed = sum(_mirror(reader.credential, chunk) for chunk in listing.chunks())
    if changed:
        Team.bump(reader.credential.team_id)
    return len(listing.found), changed


def note_list_failed(credential: Credential) -> None:
    """The tasks could not be listed, although their runs were read: the key stays in use, and only the list waits."""
    update_row(Credential, credential.pk, listing_at={"failed_at": timezone.now().isoformat()}, list_problem=FAILED)
    if credential.list_problem != FAILED:
        Team.bump(credential.team_id)


def record_listed(credential: Credential, wires: Iterable[WireTask]) -> int:
    """Mirror some tasks that the key sees, outside of a round. Returns how many are new or changed."""
    found = {wire.id: _Found(wire, []) for wire in wires if fits_an_index(wire.id)}
    changed = _mirror(credential, found)
    if changed:
        Team.bump(credential.team_id)
    return changed


def _note_listed(credential: Credential, listing: "_Listing") -> None:
    """Note that the tasks were listed, as far as Arize lists them.

    A listing may take several rounds. Tasks on its first pages must not count as no longer listed. If the list repeats
    itself, this is true for every task that was still listed before: nothing says that it is gone.
    """
    now = timezone.now()
    _stamp(repeats=listing.repeats).run(credential=credential.pk, began=listing.began, now=now)
    problem = REPEATS if listing.repeats else ""
    noted: dict[str, Any] = {"listing_at": {}, "tasks_read_at": now, "list_problem": problem}
    if not listing.repeats:
        noted["tasks_listed_from"] = listing.listed_from
    update_row(Credential, credential.pk, **noted)
    if problem != credential.list_problem:
        Team.bump(credential.team_id)


@cache
def _stamp(*, repeats: bool) -> PreparedUpdate:
    mine = Task.objects.filter(credential=Slot("credential", UUIDField()))
    listed = mine.filter(STILL_LISTED) if repeats else mine.filter(listed_at__gte=TimeSlot("began"))
    return PreparedUpdate(listed, listed_at=TimeSlot())


@dataclass
class _Found:
    wire: WireTask
    spaces: list[WireSpace]


class _Listing:
    """The task lists of one round: each task once, with the spaces that listed it.

    `resume_at`: where the next round continues a listing that did not fit into this one, as {"space": id or null,
    "cursor": text or null, "told": bool, "untold": bool, "repeats": bool, "began": text}. `told`: some space was
    listed. `untold`: some space was not, so the unscoped list is needed too. `repeats`: a list repeated itself, so
    tasks may be missing. Instead, it may say when the list failed: {"failed_at": text}. `error`: why the tasks could
    not be listed.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.began = timezone.now()
        self.found: dict[str, _Found] = {}
        self.resume_at: dict[str, Any] = {}
        self.error: ArizeError | None = None
        self.repeats = False
        self.are_all_spaces = True
        self._told = self._untold = self._is_whole = False
        self._faults = 0

    @property
    def listed_from(self) -> datetime:
        """Every task that existed then was listed. A space that is newer than the list of spaces is still missing."""
        spaces_from = self._reader.credential.spaces_listed_from
        return self.began if self._is_whole or spaces_from is None else min(self.began, spaces_from)

    def read_all(self) -> None:
        """List each space, then without a space if any is missing: Arize then lists all tasks the key may read."""
        at = self._reader.credential.listing_at
        spaces = [WireSpace.from_json(space) for space in self._reader.credential.spaces]
        ids = [space.id for space in spaces]
        resumes = _is_interrupted(self._reader.credential)
        if resumes:
            self.began = datetime.fromisoformat(at["began"])
        self._told = resumes and at["told"]
        self._untold = not spaces or not self.are_all_spaces or (resumes and at["untold"])
        self.repeats = resumes and at.get("repeats", False)
        if self._reader.is_over:
            # The spaces took the whole round. If they take the next one too, no task is ever listed.
            self._resume(ids[0] if ids and self.are_all_spaces else None, None)
            return
        cursor = at["cursor"] if resumes else None
        first = (ids.index(at["space"]) if at["space"] else len(ids)) if resumes else 0
        for space in spaces[first:]:
            if self._faults == MOST_SERVER_ERRORS:
                break  # rather than a call for each of many spaces: the list without a space shows all tasks
            self._read(space, cursor)
            if self.resume_at:
                return
            cursor = None
        if self._untold:
            self._read(None, cursor)

    def _read(self, space: WireSpace | None, start: str | None) -> None:
        client, space_id = self._reader.client, space.id if space else None
        following, pages = start, 0
        try:
            listed = self._reader.pages(lambda at: client.list_tasks(space_id=space_id, cursor=at or start), Kind.LIST)
            for page in listed:
                for wire in page.items:
                    self._add(wire, space)
                following, pages = page.next_cursor, pages + 1
        except ListRepeats:
            self._told = self.repeats = True
            following = None
        except ArizeError as error:
            self._note(error, space)
        else:
            self._told = True
            if space is None and not self._reader.is_over:
                self.repeats, self._is_whole = False, True  # the list of all spaces is complete
        if self._reader.is_over and (following or not pages):
            self._resume(space_id, following)

    def _resume(self, space_id: str | None, cursor: str | None) -> None:
        self.resume_at = {
            "space": space_id,
            "cursor": cursor,
            "told": self._told,
            "untold": self._untold,
            "repeats": self.repeats,
            "began": self.began.isoformat(),
        }

    def _note(self, error: ArizeError, space: WireSpace | None) -> None:
        if self._reader.is_over:
            return  # the next round continues here
        self._faults += not isinstance(error, ITEM_ERRORS)
        if space is not None:
            self._untold = True
        elif not (self._told and isinstance(error, Forbidden | NotFound)):
            # A key for single spaces may not list without one. That is no error if it listed some space.
            self.error = error

    def chunks(self) -> Iterator[dict[str, _Found]]:
        """The tasks in chunks that fit one query."""
        ids = sorted(self.found)
        for start in range(0, len(ids), CHUNK):
            yield {id_: self.found[id_] for id_ in ids[start : start + CHUNK]}

    def _add(self, wire: WireTask, space: WireSpace | None) -> None:
        if fits_an_index(wire.id):
            found = self.found.setdefault(wire.id, _Found(wire, []))
            found.spaces += [space] if space else []


def _knows_spaces(credential: Credential) -> bool:
    listed_from, now = credential.spaces_listed_from, timezone.now()
    return credential.tasks_read_at is not None and listed_from is not None and listed_from > now - SPACES_EVERY


def _is_interrupted(credential: Credential) -> bool:
    """Whether the last round's listing was cut short. It then continues with the spaces stored at that time."""
    at = credential.listing_at
    return "space" in at and at["space"] in [*(space["id"] for space in credential.spaces), None]


def _read_spaces(reader: Reader) -> bool:
    """List the spaces that the key sees. False if some may be missing: then tasks are listed without spaces too.

    A list that does not end soon is given up, with its spaces: to list the tasks of each would take longer still.
    """
    began, found, pages = timezone.now(), list[WireSpace](), 0
    is_complete = True
    try:
        for page in reader.pages(lambda cursor: reader.client.list_spaces(cursor=cursor), Kind.LIST):
            found, pages = [*found, *page.items], pages + 1
            is_complete = not page.next_cursor
            if pages == MOST_SPACE_PAGES and not is_complete:
                found = []
                break
    except ArizeError:
        is_complete = False  # the reader has noted the error
    is_complete = is_complete and pages > 0
    _remember_spaces(reader.credential, found, began=began if is_complete else None)
    return is_complete


def _remember_spaces(credential: Credential, spaces: list[WireSpace], *, began: datetime | None) -> None:
    """`began`: when the request for them began, if the list is complete. Otherwise what was stored before is kept, and
    only this round uses the spaces.
    """
    named = [
        {"id": space.id, "name": space.name or "", "organization_id": space.organization_id or ""} for space in spaces
    ]
    is_changed = named != credential.spaces
    credential.spaces, credential.spaces_listed_from = named, began
    row = Credential.objects.filter(pk=credential.pk)
    if began is None:
        row.update(spaces_listed_from=None)
    else:
        row.update(spaces_listed_from=began, **({"spaces": named} if is_changed else {}))


def _mirror(credential: Credential, found: dict[str, _Found]) -> int:
    """Store some tasks. A task that another usable key of the team still reads stays with that key."""
    usable = Credential.objects.filter(pk=credential.pk, endpoint=credential.endpoint, revoked_at=None)
    if not usable.exists():
        return 0  # revoked, or moved to another endpoint, since the round began
    now = timezone.now()
    mine = {"team_id": credential.team_id, "endpoint": credential.endpoint}
    known = {task.arize_id: task for task in Task.objects.filter(**mine, arize_id__in=found)}
    new = [
        Task(**mine, arize_id=id_, credential=credential, listed_at=now, **_columns(task))
        for id_, task in found.items()
        if id_ not in known
    ]
    Task.objects.bulk_create(new, ignore_conflicts=True)
    changed = sum(_update(task, found[id_]) for id_, task in known.items())
    own = [task.pk for task in known.values() if task.credential_id == credential.pk]
    others = [task.pk for task in known.values() if task.credential_id != credential.pk]
    if own:
        Task.objects.filter(pk__in=own, credential=credential).update(listed_at=now)
    if others:
        free = Task.objects.filter(NO_LONGER_LISTED | NO_USABLE_KEY, pk__in=others)
        changed += free.update(credential=credential, listed_at=now)
    return len(new) + changed


def _update(task: Task, found: _Found) -> bool:
    changes = {name: new for name, new in _columns(found).items() if getattr(task, name) != new}
    if changes:
        Task.objects.filter(pk=task.pk).update(**changes)
    # These columns are not shown, so boards need not reload.
    return bool(changes.keys() - {"as_read", "last_run_at"})


def _columns(found: _Found) -> dict[str, Any]:
    wire = found.wire
    columns: dict[str, Any] = {
        "type": wire.type.value,
        "is_continuous": wire.is_continuous,
        "last_run_at": wire.last_run_at,
        "as_read": json.dumps(wire.raw),
    }
    if wire.name is not None:
        columns["name"] = wire.name
    if len(found.spaces) == 1:
        columns |= {"space_id": found.spaces[0].id, "space_name": found.spaces[0].name or ""}
    return columns
