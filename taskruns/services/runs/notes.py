"""Notes on runs: one line each, for the team and for the audit log."""

from django.db import transaction

from taskruns.audit import Actor, EventType, clean_line, record
from taskruns.models import LONGEST_REASON, Run, RunNote
from taskruns.services.user_errors import UserError


def add(run: Run, *, text: str, by: Actor) -> RunNote:
    """Keep the note and record it. Expects `run.task` and `run.team` to be loaded. Raises UserError."""
    note = RunNote(run=run, person=by.person, person_label=by.label, text=_cleaned(text))
    with transaction.atomic():
        note.save(force_insert=True)
        record(EventType.RUN_NOTE, "done", by=by, team=run.team, run=run, reason=note.text)
    return note


def _cleaned(text: str) -> str:
    cleaned = clean_line(text, LONGEST_REASON + 1)
    if not any(sign.isprintable() and not sign.isspace() for sign in cleaned):
        raise UserError("The note is empty. Nothing was saved. Write what the team should know.", field="note")
    if len(cleaned) > LONGEST_REASON:
        sentence = f"The note is longer than {LONGEST_REASON} characters. Nothing was saved. Shorten it."
        raise UserError(sentence, field="note")
    return cleaned
