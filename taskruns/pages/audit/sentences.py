"""What each row of the audit log says to people."""

from taskruns.models import TRIGGER_FACTS, AuditEvent, Outcome
from taskruns.pages.outcomes import CANCEL_WORDS, TRIGGER_WORDS

# {who} did {what}: a sentence for every event and outcome of the catalogue; `""` is the fallback of an event.
# Those of what Arize was asked stand in `pages/outcomes.py`.
SENTENCES: dict[str, dict[str, str]] = {
    "run.cancel": {
        "requested": "{who} asked to cancel run {run} of task {target}",
        **{it.value: CANCEL_WORDS[it].log for it in Outcome if it.value},
        "denied": "{who} tried to cancel a run without the right to: {target}",
    },
    "run.cancel_many": {
        "requested": "{who} asked to cancel many runs",
        "finished": "The cancel of many runs is finished",
        "aborted": "{who} aborted the cancel of many runs",
        "denied": "{who} tried to cancel many runs without the right to",
    },
    "run.trigger": {
        "requested": "{who} asked to start a run of task {target}",
        **{it.value: TRIGGER_WORDS[it].log for it, facts in TRIGGER_FACTS.items() if it.value and facts.has_row},
        "denied": "{who} tried to start a run without the right to: {target}",
    },
    "run.export": {"": "{who} exported the list of runs"},
    "stop.pull": {"": "{who} pulled the emergency stop"},
    "stop.lift": {"": "{who} lifted the emergency stop"},
    "stop.expire": {"": "The emergency stop ended by itself"},
    "credential.add": {"": "{who} added the key {target}"},
    "credential.replace": {"": "{who} replaced the key {target}"},
    "credential.test": {
        "requested": "{who} started a test of the key {target}",
        "ok": "{who} tested the key {target}: it works",
        "": "{who} tested the key {target}: it failed",
    },
    "credential.revoke": {"": "{who} revoked the key {target}"},
    "credential.failing": {"": "Arize rejects the key {target}"},
    "credential.expiring": {"": "The key {target} expires soon"},
    "member.add": {"": "{who} added {target} to the team"},
    "member.change_role": {"": "{who} changed the role of {target}"},
    "member.remove": {"": "{who} removed {target} from the team"},
    "invitation.create": {"": "{who} invited {target}"},
    "invitation.accept": {"": "{who} accepted the invitation"},
    "invitation.revoke": {"": "{who} took back the invitation of {target}"},
    "team.create": {"": "{who} created the team {target}"},
    "team.change": {"": "{who} changed the team {target}"},
    "team.archive": {"": "{who} archived the team {target}"},
    "view.save": {"": "{who} saved the view {target}"},
    "view.delete": {"": "{who} deleted the view {target}"},
    "person.create": {"": "{who} created the person {target}"},
    "person.disable": {"": "{who} disabled {target}"},
    "person.enable": {"": "{who} let {target} in again"},
    "person.grant": {"": "{who} changed the site role of {target}"},
    "person.reset": {"": "{who} reset the sign-in of {target}"},
    "profile.change": {"": "{who} changed their profile"},
    "access.denied": {"": "{who} was refused: {target}"},
    "auth.sign_in": {
        "done": "{who} signed in",
        "failed": "A sign-in failed: {target}",
        "throttled": "Sign-ins were throttled: {target}",
    },
    "auth.sign_out": {"": "{who} signed out"},
    "auth.password_change": {
        "": "{who} changed their password",
        "denied": "{who} tried to change their password and was refused{why}",
    },
    "auth.mfa_add": {"": "{who} added a second factor"},
    "auth.mfa_remove": {"": "{who} removed a second factor"},
    "auth.session_end": {"": "{who} ended sessions of {target}"},
    "audit.read": {"": "{who} read the audit log"},
    "audit.export": {"": "{who} exported the audit log"},
    "audit.verify": {
        "ok": "{who} verified the audit log: it is whole",
        "": "{who} verified the audit log: it has faults",
    },
    "encryption.reencrypt": {"": "{who} re-encrypted the keys"},
}
# What a row without a target speaks of: a login that nobody here has is not kept.
_NAMELESS = {"auth.sign_in": "of nobody known here"}


def sentence(event: AuditEvent) -> str:
    words = SENTENCES[event.event]
    who = event.actor_label or ("Somebody" if event.actor_type == "anonymous" else event.actor_type)
    if event.actor_type == "anonymous" and "left_out" in event.details:
        more = event.details["left_out"]
        return f"{more} more {'try' if more == 1 else 'tries'} like the one before, from {event.ip or 'nowhere'}"
    if event.outcome == "denied" and "denied" not in words:
        return _refusal(event, who)
    told = _TOLD_BY_DETAILS.get((event.event, event.outcome, _detail(event))) or words.get(event.outcome)
    return (told or words.get("", "")).format(
        who=who,
        target=event.target_label or event.target_id or _NAMELESS.get(event.event, ""),
        run=event.run_id,
        why=f": {event.details['why']}" if event.details.get("why") else "",
    )


# What one event and outcome means depends on a detail: whether it was again, and why.
_TOLD_BY_DETAILS = {
    ("auth.sign_in", "done", "again"): "{who} confirmed who they are",
    ("auth.sign_in", "failed", "again"): "{who} was asked who they are, and gave a wrong answer",
    ("auth.sign_in", "throttled", "again"): "{who} was asked who they are, and tried too often",
    ("auth.sign_in", "failed", "second factor"): "A second factor was wrong: {target}",
    ("auth.sign_in", "failed", "code used before"): "A code was used a second time: {target}",
    ("auth.sign_in", "failed", "passkey"): "A passkey was wrong: {target}",
    ("credential.test", "failed", "interrupted"): "The test of the key {target} was interrupted: its result is unknown",
    ("auth.session_end", "done", "idle"): "A session of {target} ended: nobody had worked in it for long",
    ("auth.session_end", "done", "age"): "A session of {target} ended: it had lasted long enough",
}


def _detail(event: AuditEvent) -> str:
    return "again" if event.details.get("again") else str(event.details.get("why", ""))


def _refusal(event: AuditEvent, who: str) -> str:
    """`target` of a refusal is the page that was asked for."""
    what = "" if event.event == "access.denied" else f" {event.event}"
    why = f" ({event.details['why']})" if event.details.get("why") else ""
    return f"{who} was refused{what}: {event.details.get('path') or event.target_label or event.target_id}{why}"
