"""The house rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskruns.audit import CATALOGUE, EventType
from taskruns.models import AuditEvent
from taskruns.pages.audit.sentences import SENTENCES, sentence
from tests.paths import ROOT
from tests.sources import HAND_WRITTEN, SOURCES, TESTS, TEXTS, named, on_floors

VAGUE = {"utils", "util", "helpers", "helper", "common", "mixins", "misc", "base"}
WRITES = {
    *("save", "create", "get_or_create", "update_or_create", "bulk_create", "bulk_update", "update", "delete"),
    *("encrypt_secret", "set_password", "add_to", "atomic", "record"),
}


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Each call in the module: the object (source text, "" for a plain name) and the name."""
    for node in ast.walk(ast.parse(TEXTS[path])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func.value), node.func.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield "", node.func.id


def imported_names(text: str) -> set[str]:
    """Full names of all modules and module members that the source imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(TEXTS[path])}


def test_the_sources_are_found():
    assert len(HAND_WRITTEN) > 50
    assert "config/settings.py" in map(named, HAND_WRITTEN)


def test_imports_only_go_down():
    lint = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([lint, "--no-cache"], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout
    assert " 0 broken" in ended.stdout


def test_only_the_audit_package_writes_audit_rows():
    makers = {named(path) for path in SOURCES for on, name in calls(path) if name == "AuditEvent"}
    assert makers == {"taskruns/audit/record.py"}
    writes = WRITES - {"record"}
    through = {named(path) for path in SOURCES for on, name in calls(path) if "AuditEvent" in on and name in writes}
    assert not through


def test_only_outbound_speaks_http():
    speakers = {named(path) for path in SOURCES if imports(path) & {"requests", "urllib3"}}
    assert speakers == {"taskruns/outbound/session.py", "taskruns/outbound/connection.py"}
    assert not {named(path) for path in SOURCES if imports(path) & {"httpx", "aiohttp", "httplib2", "pycurl"}}
    others = {named(path) for path in SOURCES if {"http.client", "urllib.request"} & imported_names(TEXTS[path])}
    apart = {"taskruns/sandbox/webhook.py", "config/demo.py"}  # the demo polls its own pages
    assert others == {"taskruns/outbound/connection.py"} | apart


def test_only_one_place_creates_the_arize_client():
    """So that every call uses a checked endpoint and is counted."""
    openers = {named(path) for path in SOURCES for _, name in calls(path) if name == "ArizeClient"}
    assert openers == {"taskruns/services/credentials/client.py"}


def of_allauth_internals(text: str) -> set[str]:
    return {name for name in imported_names(text) if re.match(r"allauth\..*\binternal\b", name)}


def test_only_one_file_imports_allauth_internals():
    assert {named(path) for path in SOURCES if of_allauth_internals(TEXTS[path])} == {"taskruns/allauth_compat.py"}


@pytest.mark.parametrize(
    "line",
    [
        "from allauth.mfa.totp.internal.auth import TOTP",
        "from allauth.mfa.totp.internal import auth",
        "from allauth.mfa.totp import internal",
        "import allauth.mfa.totp.internal.auth as auth",
        "def late():\n    from allauth.account.internal import flows",
    ],
)
def test_every_import_of_an_allauth_internal_is_found(line: str):
    """The control of the test above."""
    assert of_allauth_internals(line)
    assert not of_allauth_internals(line.replace("internal", "external"))


def test_outbound_arize_and_sandbox_do_not_import_django():
    plain = on_floors("outbound", "arize", "sandbox")
    assert len(plain) > 20
    assert not [named(path) for path in plain if "django" in imports(path)]
    for path in plain:
        if "sandbox" in path.parts:
            assert not re.search(r"^\s*from taskruns\.(?!sandbox)", TEXTS[path], re.MULTILINE), named(path)


def locks_as_if_to_delete(text: str) -> bool:
    """Whether a row lock in this source also keeps others from referring to the row."""
    locks = [it for it in ast.walk(ast.parse(text)) if isinstance(it, ast.Call) and "select_for_update" in _name(it)]
    return any("no_key" not in {argument.arg for argument in lock.keywords} for lock in locks)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def test_only_deletions_keep_others_from_referring_to_a_row():
    """PostgreSQL checks foreign keys at the commit, when the lock of the audit chain is held. If someone who waits for
    the chain had locked the row like this, both would wait for each other.
    """
    found = {named(path) for path in SOURCES if locks_as_if_to_delete(TEXTS[path])}
    assert found == {"taskruns/services/runs/retention.py", "taskruns/services/batches/draft.py"}


def test_views_and_pages_never_write_to_the_database():
    readers = on_floors("views", "access", "pages", "templatetags")
    assert len(readers) > 30
    found = {f"{named(path)}: {on}.{name}()" for path in readers for on, name in calls(path) if on and name in WRITES}
    assert not found


def test_services_use_no_request_template_or_url():
    services = on_floors("services", "audit", "models")
    assert len(services) > 40
    above = r"^(from|import) (django\.(template|shortcuts|urls)|taskruns\.(pages|views|access|templatetags))"
    web = r"^from django\.http import (?!QueryDict$)"  # filters are stored as query strings
    assert not [named(path) for path in services if re.search(f"{above}|{web}", TEXTS[path], re.MULTILINE)]


def test_only_user_error_has_a_sentence_and_a_field():
    found = {path.name for path in on_floors("services") if re.search(r"self\.sentence\b.*=", TEXTS[path])}
    assert found == {"user_errors.py"}


def test_the_check_of_views_detects_a_write():
    """The control of the test above."""
    path = ROOT / "taskruns/services/people/accounts.py"
    assert ("person", "save") in set(calls(path))


def test_no_module_has_a_meaningless_name():
    assert not [named(path) for path in SOURCES + TESTS if path.stem in VAGUE]
    assert not [named(path) for path in SOURCES for part in path.relative_to(ROOT).parts if part in VAGUE]


def test_no_test_is_skipped_or_sleeps():
    found = [named(path) for path in TESTS if re.search(r"mark\.(skip|xfail)|time\.sleep\(", path.read_text())]
    real_time = ("tests/e2e", "tests/bench", "tests/chaos", "tests/processes.py")  # these wait for other processes
    assert [name for name in found if not name.startswith(real_time)] in ([], ["tests/house/test_architecture.py"])


COMMANDS = sorted(path.stem for path in (ROOT / "taskruns/management/commands").glob("[!_]*.py"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_test(command: str):
    assert COMMANDS
    mentioned = [named(path) for path in TESTS if re.search(rf"[\"' ]{command}[\"' ,]", path.read_text())]
    assert mentioned


EVENTS = [(event, outcome) for event, outcomes in CATALOGUE.items() for outcome in sorted(outcomes)]


@pytest.mark.parametrize(("event", "outcome"), EVENTS)
def test_every_event_of_the_catalogue_has_a_sentence(event: EventType, outcome: str):
    row = AuditEvent(
        event=event.value, outcome=outcome, actor_type="user", actor_label="WHO", target_label="WHAT", run_id="RUN"
    )
    words = sentence(row)
    assert words
    assert not re.search(r"[{}]", words)
    assert words[0].isupper()
    if outcome == "denied":
        assert "WHO" in words


def test_every_sentence_belongs_to_an_event():
    assert set(SENTENCES) == {event.value for event in EventType}
    for event, words in SENTENCES.items():
        assert set(words) - {""} <= CATALOGUE[EventType(event)]
        for text in words.values():
            assert {name for _, name, _, _ in string.Formatter().parse(text) if name} <= {"who", "target", "run", "why"}


def test_the_catalogue_matches_the_document():
    """A second copy of the catalogue, written from the document on the audit log."""
    names = {
        *("run.cancel", "run.cancel_many", "run.trigger", "run.trigger_many", "run.export", "run.note"),
        *("stop.pull", "stop.lift", "stop.expire"),
        *("credential.add", "credential.replace", "credential.test", "credential.revoke", "credential.failing"),
        *("credential.recovered", "credential.expiring", "member.add", "member.change_role", "member.remove"),
        *("invitation.create", "invitation.accept", "invitation.revoke"),
        *("team.create", "team.change", "team.archive", "view.save", "view.delete"),
        *("person.create", "person.change", "person.disable", "person.enable", "person.grant", "person.reset"),
        *("profile.change", "access.denied"),
        *("auth.sign_in", "auth.sign_out", "auth.password_change", "auth.mfa_add", "auth.mfa_remove"),
        *("auth.session_end", "audit.read", "audit.export", "audit.verify", "encryption.reencrypt"),
        *("channel.add", "channel.change", "channel.remove", "channel.test", "channel.mute", "notify.given_up"),
        *("token.create", "token.revoke", "token.expire", "token.refused"),
        "system.restored",
    }
    assert {event.value for event in EventType} == names
    cancel = "requested confirmed finished_first failed_first already_cancelled still_running refused not_sent unknown"
    assert CATALOGUE[EventType.RUN_CANCEL] == {*cancel.split(), "joined", "not_needed", "denied"}
    assert CATALOGUE[EventType.RUN_CANCEL_MANY] == {"requested", "finished", "aborted", "denied"}
    assert CATALOGUE[EventType.RUN_TRIGGER] == {"requested", "done", "refused", "not_sent", "unknown", "denied"}
    assert CATALOGUE[EventType.AUTH_SIGN_IN] == {"done", "failed", "throttled"}
    for check in (EventType.CREDENTIAL_TEST, EventType.AUDIT_VERIFY):
        assert {"ok", "failed"} <= CATALOGUE[check]
    assert CATALOGUE[EventType.TEAM_CHANGE] == {"done", "denied"}
