"""The sentence that describes each row of the audit log."""

from taskruns.models import TRIGGER_FACTS, AuditEvent, Outcome
from taskruns.pages.outcomes import CANCEL_WORDS, TRIGGER_WORDS

from .facts import facts_of

# Event -> outcome -> sentence, for the whole catalogue. The outcome "" is the event's default.
# The sentences for the results of cancels and triggers are in `pages/outcomes.py`.
SENTENCES: dict[str, dict[str, str]] = {
    "run.cancel": {
        "requested": "{who} asked to cancel run {run} of task {target}",
        **{it.value: CANCEL_WORDS[it].log for it in Outcome if it.value},
        "denied": "{who} tried to cancel a run without permission: {target}",
    },
    "run.cancel_many": {
        "requested": "{who} started a bulk cancel",
        "finished": "The bulk cancel finished",
        "aborted": "{who} stopped the bulk cancel",
        "denied": "{who} tried to start a bulk cancel without permission",
    },
    "run.trigger": {
        "requested": "{who} asked to start a run of task {target}",
        **{it.value: TRIGGER_WORDS[it].log for it, facts in TRIGGER_FACTS.items() if it.value and facts.has_row},
        "denied": "{who} tried to start a run without permission: {target}",
    },
    "run.trigger_many": {
        "requested": "{who} started runs again in bulk",
        "finished": "Starting runs again in bulk finished",
        "aborted": "{who} stopped starting runs again in bulk",
        "denied": "{who} tried to start runs again in bulk without permission",
    },
    "run.export": {"": "{who} exported the list of runs"},
    "run.note": {
        "": "{who} left a note on the run of task {target}",
        "denied": "{who} tried to leave a note without permission: {target}",
    },
    "stop.pull": {"": "{who} pulled the emergency stop"},
    "stop.lift": {"": "{who} lifted the emergency stop"},
    "stop.expire": {"": "The emergency stop expired"},
    "credential.add": {"": "{who} added the API key {target}"},
    "credential.replace": {"": "{who} replaced the API key {target}"},
    "credential.test": {
        "requested": "{who} started a test of the API key {target}",
        "ok": "{who} tested the API key {target}: it works",
        "": "{who} tested the API key {target}: the test failed",
    },
    "credential.revoke": {"": "{who} revoked the API key {target}"},
    "credential.failing": {"": "Arize rejected the API key {target}"},
    "credential.recovered": {"": "Arize accepts the API key {target} again"},
    "credential.expiring": {"": "The API key {target} expires soon"},
    "channel.add": {"": "{who} added the channel {target}"},
    "channel.change": {"": "{who} changed the channel {target}"},
    "channel.remove": {"": "{who} removed the channel {target}"},
    "channel.test": {"": "{who} sent a test message to the channel {target}"},
    "channel.mute": {"": "{who} muted or unmuted the channel {target}"},
    "notify.given_up": {"": "Messages to the channel {target} could not be sent within a day"},
    "token.create": {"": "{who} created the token {target}"},
    "token.revoke": {"": "{who} revoked the token {target}"},
    "token.expire": {"": "The token {target} expired"},
    "token.refused": {"denied": "{who} used a token that does not work{why}"},
    "member.add": {"": "{who} added {target} to the team"},
    "member.change_role": {"": "{who} changed the role of {target}"},
    "member.remove": {"": "{who} removed {target} from the team"},
    "invitation.create": {"": "{who} invited {target}"},
    "invitation.accept": {"": "{who} accepted the invitation"},
    "invitation.revoke": {"": "{who} revoked the invitation of {target}"},
    "team.create": {"": "{who} created the team {target}"},
    "team.change": {"": "{who} changed the team {target}"},
    "team.archive": {"": "{who} archived the team {target}"},
    "view.save": {"": "{who} saved the view {target}"},
    "view.delete": {"": "{who} deleted the view {target}"},
    "person.create": {"": "{who} created the account {target}"},
    "person.disable": {"": "{who} disabled the account {target}"},
    "person.enable": {"": "{who} enabled the account {target}"},
    "person.change": {"": "{who} changed the name or email of {target}"},
    "person.grant": {"": "{who} changed the site role of {target}"},
    "person.reset": {"": "{who} reset the sign-in of {target}"},
    "profile.change": {"": "{who} changed their profile"},
    "access.denied": {"": "{who} was refused access: {target}"},
    "auth.sign_in": {
        "done": "{who} signed in",
        "failed": "Failed sign-in: {target}",
        "throttled": "Too many sign-in attempts: {target}",
    },
    "auth.sign_out": {"": "{who} signed out"},
    "auth.password_change": {
        "": "{who} changed their password",
        "denied": "{who} could not change their password{why}",
    },
    "auth.mfa_add": {"": "{who} added a second factor"},
    "auth.mfa_remove": {"": "{who} removed a second factor"},
    "auth.session_end": {"": "{who} ended sessions of {target}"},
    "audit.read": {"": "{who} read the audit log"},
    "audit.export": {"": "{who} exported the audit log"},
    "audit.verify": {
        "ok": "{who} verified the audit log: no tampering found",
        "": "{who} verified the audit log: faults found",
    },
    "encryption.reencrypt": {"": "{who} re-encrypted the stored secrets"},
    "system.restored": {
        "done": "{who} restored this log from a backup",
        "adopted": "{who} adopted the restored panel: it works again",
    },
}
# Shown instead of an empty target. A login that no account has is not stored.
_NO_TARGET = {"auth.sign_in": "unknown account"}


def sentence(event: AuditEvent) -> str:
    sentences = SENTENCES[event.event]
    who = event.actor_label or ("Someone" if event.actor_type == "anonymous" else event.actor_type)
    if event.actor_type == "anonymous" and "left_out" in event.details:
        more = event.details["left_out"]
        return f"{more} more attempt{'' if more == 1 else 's'} of the same kind from {event.ip or 'other addresses'}"
    if event.outcome == "denied" and "left_out" in event.details:
        more = event.details["left_out"]
        return f"{more} more refused attempt{'' if more == 1 else 's'} of {who} in the same minute"
    if event.outcome == "denied" and "denied" not in sentences:
        return _refusal(event, who)
    chosen = _BY_DETAIL.get((event.event, event.outcome, _detail(event))) or sentences.get(event.outcome)
    said = (chosen or sentences.get("", "")).format(
        who=who,
        target=event.target_label or event.target_id or _NO_TARGET.get(event.event, ""),
        run=event.run_id,
        why=f": {event.details['why']}" if event.details.get("why") else "",
    )
    return said + facts_of(event)


# (event, outcome, detail) -> sentence, where the meaning depends on a detail.
_BY_DETAIL = {
    ("auth.sign_in", "done", "again"): "{who} confirmed their identity",
    ("auth.sign_in", "failed", "again"): "{who} failed to confirm their identity",
    ("auth.sign_in", "throttled", "again"): "{who} tried too often to confirm their identity",
    ("auth.sign_in", "failed", "second factor"): "Failed sign-in, wrong second factor: {target}",
    ("auth.sign_in", "failed", "code used before"): "Failed sign-in, code already used: {target}",
    ("auth.sign_in", "failed", "passkey"): "Failed sign-in, wrong passkey: {target}",
    ("auth.sign_in", "throttled", "guessing"): "Many wrong sign-in attempts from unknown browsers: {target}",
    ("person.change", "done", "verified"): "The email of {target} was verified",
    ("credential.test", "failed", "interrupted"): "The test of the API key {target} was interrupted: result unknown",
    ("auth.session_end", "done", "idle"): "A session of {target} ended: it was idle too long",
    ("auth.session_end", "done", "too many"): "A session of {target} ended: the person had too many",
    ("auth.session_end", "done", "age"): "A session of {target} ended: it reached its maximum age",
}


def _detail(event: AuditEvent) -> str:
    return "again" if event.details.get("again") else str(event.details.get("why", ""))


def _refusal(event: AuditEvent, who: str) -> str:
    """The `target` of a refused attempt is the requested page."""
    what = " access" if event.event == "access.denied" else f" {event.event}"
    why = f" ({event.details['why']})" if event.details.get("why") else ""
    return f"{who} was refused{what}: {event.details.get('path') or event.target_label or event.target_id}{why}"
