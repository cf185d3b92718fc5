"""Starting: what the environment must contain and what is derived from it. Real processes where the start is tested."""

import json
import os
import re
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from config import environment, mail, sso
from tests import forked_command
from tests.config.deployment import FERNET, GOOD
from tests.paths import ROOT

MANAGE = ["manage.py", "check"]
GUNICORN = ["-m", "gunicorn", "--check-config", "config.wsgi"]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with only a deployment's environment variables."""

    def run(
        command: list[str], *, secrets: dict[str, str] = GOOD, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ENV_FILE": "", "DATA_DIR": str(tmp_path / "var")}
        return forked_command.run(command, env=env | secrets | variables)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("command", [MANAGE, GUNICORN], ids=["manage.py", "gunicorn"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", ""),
        ("SECRET_KEY", "s3kr3t-but-short"),
        ("SECRET_KEY", "a" * 60),
        ("ENCRYPTION_KEYS", ""),
        ("ENCRYPTION_KEYS", "1:s3kr3t"),
        ("AUDIT_SIGNING_KEY", ""),
        ("AUDIT_SIGNING_KEY", "czNrcjN0"),
        ("SITE_URL", "http://panel.example.com"),
        ("DATABASE_URL", "postgres://user:s3kr3t@host:port/name"),
        ("ARIZE_ENDPOINTS", "http://user:s3kr3t@host"),
        ("TRUSTED_PROXIES", "many"),
        ("OIDC_ISSUER", "http://id.example.com/s3kr3t"),
        ("EMAIL_URL", "smtp:s3kr3t"),
        ("RUN_RETENTION_DAYS", "0"),
    ],
)
def test_a_start_error_is_one_line_naming_the_variable(
    start: Callable[..., subprocess.CompletedProcess[str]], command: list[str], name: str, value: str
):
    ended = start(command, **{name: value})
    assert ended.returncode == (2 if command == MANAGE else 1), "a command that could not run"
    assert re.fullmatch(rf"Cannot start: {name}\b[^\n]*\.\n", ended.stderr)
    assert not ended.stdout
    assert "s3kr3t" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [MANAGE, GUNICORN], ids=["manage.py", "gunicorn"])
def test_the_panel_starts_with_only_the_three_secrets(
    start: Callable[..., subprocess.CompletedProcess[str]], command: list[str]
):
    assert start(command).returncode == 0


@pytest.mark.slow
def test_new_secrets_are_accepted_and_always_different(
    start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
):
    command = ["manage.py", "new_secrets"]
    first, second = (start(command, secrets={}).stdout for _ in range(2))
    assert [line.partition("=")[0] for line in first.splitlines()] == list(GOOD)
    assert not set(first.splitlines()) & set(second.splitlines())
    env_file = tmp_path / "env"
    env_file.write_text(first)
    assert start(MANAGE, secrets={}).returncode == 2
    assert start(MANAGE, secrets={}, ENV_FILE=str(env_file)).returncode == 0


COMMANDS = {
    "check": [*MANAGE],
    "verify_audit": ["manage.py", "verify_audit"],
    "migrate": ["manage.py", "migrate"],
    "worker": ["manage.py", "run_huey"],
    "web": GUNICORN,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("content", ["SECRET_KEY=ü".encode("latin-1"), "SECRET_KEY=x".encode("utf-16"), None])
def test_an_unreadable_env_file_is_one_sentence(
    start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, name: str, content: bytes | None
):
    env_file = tmp_path / "env"
    if content is None:
        env_file.mkdir()
    else:
        env_file.write_bytes(content)
    ended = start(COMMANDS[name], ENV_FILE=str(env_file))
    assert ended.returncode == (1 if name == "web" else 2)
    assert re.fullmatch(r"Cannot start: ENV_FILE names a file that [^\n]*\.\n", ended.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["migrate"], ["verify_audit"], ["create_team", "Ops"], ["export_audit", "site"]])
def test_an_unreachable_database_is_one_sentence(
    start: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str]
):
    away = "postgres://nobody@127.0.0.1:1/nothing"
    ended = start(["manage.py", *arguments], DATABASE_URL=away)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "database" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("proxies", [{}, {"TRUSTED_PROXIES": "0"}, {"TRUSTED_PROXIES": "1"}])
def test_a_complete_deployment_has_no_warning(
    proxies: dict[str, str], start: Callable[..., subprocess.CompletedProcess[str]]
):
    command = [*MANAGE, "--deploy", "--fail-level", "WARNING"]
    secret = "kZ8-qv1T_x0PzL5nR7mY3wE9uHc2BdFgJaSo4iKt6UbVXWNe-9sQ"
    site = {"SITE_URL": "https://panel.example.com", "SECRET_KEY": secret}
    checked = start(command, **site, **proxies)
    assert (checked.returncode, "W0" in checked.stdout + checked.stderr) == (0, False)
    assert start(command, SECRET_KEY=secret).returncode == 1  # the control: plain http on loopback gives a warning


SHOWN = [
    *("ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "SITE_URL", "DEBUG"),
    *("SESSION_COOKIE_SECURE", "SESSION_COOKIE_NAME", "SESSION_COOKIE_HTTPONLY", "SESSION_COOKIE_SAMESITE"),
    *("CSRF_COOKIE_SECURE", "CSRF_COOKIE_NAME", "CSRF_COOKIE_HTTPONLY"),
    *("SECURE_HSTS_SECONDS", "SECURE_PROXY_SSL_HEADER", "SECURE_SSL_REDIRECT", "REQUIRE_MFA"),
]


def shown(start: Callable[..., subprocess.CompletedProcess[str]], **variables: str) -> dict[str, Any]:
    code = f"from config import settings as s; import json; print(json.dumps({{n: getattr(s, n) for n in {SHOWN}}}))"
    ended = start(["-c", code], **variables)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.slow
def test_a_second_factor_is_required_unless_switched_off(start: Callable[..., subprocess.CompletedProcess[str]]):
    assert shown(start)["REQUIRE_MFA"] is True
    assert shown(start, REQUIRE_MFA="off")["REQUIRE_MFA"] is False


@pytest.mark.slow
def test_https_gives_secure_host_cookies_and_hsts(start: Callable[..., subprocess.CompletedProcess[str]]):
    found = shown(start, SITE_URL="https://Panel.example.com:443/", TRUSTED_PROXIES="1")
    assert found["SITE_URL"] == "https://panel.example.com"
    assert found["ALLOWED_HOSTS"] == ["panel.example.com"]
    assert found["CSRF_TRUSTED_ORIGINS"] == ["https://panel.example.com"]
    assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is True
    assert found["SESSION_COOKIE_HTTPONLY"] is found["CSRF_COOKIE_HTTPONLY"] is True
    assert found["SESSION_COOKIE_NAME"] == "__Host-sessionid"
    assert found["CSRF_COOKIE_NAME"] == "__Host-csrftoken"
    assert found["SECURE_HSTS_SECONDS"] >= 31_536_000
    assert found["SECURE_SSL_REDIRECT"] is True
    assert found["SECURE_PROXY_SSL_HEADER"] == ["HTTP_X_FORWARDED_PROTO", "https"]


@pytest.mark.slow
def test_by_default_the_site_is_on_loopback_without_debug(
    start: Callable[..., subprocess.CompletedProcess[str]],
):
    found = shown(start, SITE_URL="", DEBUG="", TRUSTED_PROXIES="")
    assert found["SITE_URL"] == "http://localhost:8000"
    assert found["DEBUG"] is False
    assert {"localhost", "127.0.0.1"} <= set(found["ALLOWED_HOSTS"])
    assert {"http://localhost:8000", "http://127.0.0.1:8000"} <= set(found["CSRF_TRUSTED_ORIGINS"])
    assert found["SESSION_COOKIE_SECURE"] is False
    assert found["SECURE_HSTS_SECONDS"] == 0
    assert found["SECURE_PROXY_SSL_HEADER"] is None


NO_SITES = [
    *("panel", "//panel.example.com", "ftp://localhost", "https://", "https://user:s3kr3t@panel.example.com"),
    *("https://panel.example.com/path", "https://panel.example.com?x", "https://panel.example.com#x"),
    *("https://panel.example.com:port", "https://panel.example.com:99999", "https://[::1", "https://pa nel.com"),
    *("https://*", "https://.example.com", "https://panel.example.com,evil.example"),
    *("http://panel.example.com", "http://localhost.evil.example", "http://0.0.0.0", "http://127.0.0.1.evil.example"),
]
MALFORMED: list[tuple[str, str, Callable[[], object]]] = [
    *[("SITE_URL", value, environment.site) for value in NO_SITES],
    ("SECRET_KEY", "s3kr3t", environment.secret_key),
    ("ENCRYPTION_KEYS", FERNET, environment.encryption_keys),
    ("ENCRYPTION_KEYS", f"1:{FERNET},1:{FERNET}", environment.encryption_keys),
    ("ENCRYPTION_KEYS", f"1:{FERNET},", environment.encryption_keys),
    ("ENCRYPTION_KEYS", "1:s3kr3t", environment.encryption_keys),
    ("AUDIT_SIGNING_KEY", "s3kr3t, not base64", environment.signing_key),
    ("AUDIT_SIGNING_KEY", FERNET + "AAAA", environment.signing_key),
    *[
        ("DATABASE_URL", value, lambda: environment.database(Path("unused")))
        for value in (
            *("nonsense", "mysql://user:s3kr3t@host/name", "postgres://", "sqlite:///", "sqlite:///:memory:"),
            "sqlite:////no/such/directory/file",
        )
    ],
    *[
        ("QUEUE_URL", value, lambda: environment.queue(Path("unused")))
        for value in ("nonsense", "amqp://user:s3kr3t@host", "redis://:s3kr3t@host:port/0", "sqlite:///")
    ],
    *[
        ("ARIZE_ENDPOINTS", value, environment.arize_endpoints)
        for value in ("arize", "http://host/s3kr3t", "http://ok.example, ftp://bad.example", "http://host:99999")
    ],
    *[("TRUSTED_PROXIES", value, lambda: environment.integer("TRUSTED_PROXIES", 0)) for value in ("-1", "1.5", "one")],
    *[("DEBUG", value, lambda: environment.boolean("DEBUG", default=False)) for value in ("maybe", "2", "None")],
    ("DATA_DIR", "/dev/null/taskruns", environment.data_dir),
    *[
        ("OIDC_ISSUER", value, sso.provider)
        for value in (
            *("id.example.com", "ftp://id.example.com", "http://id.example.com", "https://user:s3kr3t@id.example.com"),
            *("https://id.example.com?x=s3kr3t", "https://id.example.com#x", "https://", "https://[::1", "https://a b"),
        )
    ],
    ("OIDC_CLIENT_ID", "", sso.provider),
    *[
        ("OIDC_SCOPES", value, sso.scopes)
        for value in (
            "email",
            "profile,email",
            ' openid "s3kr3t"',
            "openid s3kr3t\\",
            "openid schlüssel",
            ",",
            "openid " + "x" * 201,
        )
    ],
    ("SSO_ONLY", "maybe", lambda: sso.only(None)),
    ("SSO_ONLY", "on", lambda: sso.only(None)),
    *[
        ("OIDC_GROUP_ROLES", value, sso.group_roles)
        for value in ("ops", "ops=north", "ops=north:owner", "=north:viewer", "ops=:viewer", "a=b:viewer,s3kr3t")
    ],
    *[
        ("EMAIL_URL", value, lambda: mail.of_environment("panel.example.com"))
        for value in ("nonsense", "https://s3kr3t@host", "smtp://", "smtp://user:s3kr3t@host:port")
    ],
    *[
        (name, value, lambda name=name: environment.integer(name, 7, at_least=1, at_most=365))
        for name in ("SESSION_IDLE_HOURS", "SESSION_MAX_DAYS")
        for value in ("0", "-1", "1.5", "ever", "999999")
    ],
]


@pytest.mark.parametrize(
    ("name", "value", "read"), MALFORMED, ids=[f"{name} {value[:50]}" for name, value, _ in MALFORMED]
)
def test_a_malformed_value_is_refused_and_not_shown(
    name: str, value: str, read: Callable[[], object], monkeypatch: pytest.MonkeyPatch
):
    if name == "OIDC_CLIENT_ID":
        monkeypatch.setenv("OIDC_ISSUER", "https://id.example.com")
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as refused:
        read()
    assert str(refused.value).startswith(name)
    assert str(refused.value).endswith(".")
    shown = "".join(traceback.format_exception(refused.value))
    assert str(refused.value) in shown
    assert "s3kr3t" not in shown


OIDC = {
    "OIDC_ISSUER": "https://id.example.com/realms/ops/",
    "OIDC_CLIENT_ID": "panel",
    "OIDC_CLIENT_SECRET": "a secret",
    "OIDC_GROUP_ROLES": "cn=ops=ops-north:operator, leads=ops-north:manager",
}


def test_single_sign_on_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert sso.provider() is None
    for name, value in OIDC.items():
        monkeypatch.setenv(name, value)
    found = sso.provider()
    assert found is not None
    assert found.issuer == OIDC["OIDC_ISSUER"], "the trailing slash is part of its name"
    assert found.discovery_url == "https://id.example.com/realms/ops/.well-known/openid-configuration"
    assert found.roles_for(["leads", "cn=ops"]) == {"ops-north": "manager"}
    assert found.roles_for(["cn=ops", "x"]) == {"ops-north": "operator"}
    assert "a secret" not in repr(found)
    assert (found.scopes, found.sends_auth_time, sso.only(found)) == (("openid", "profile", "email"), True, False)
    monkeypatch.setenv("OIDC_SCOPES", "openid, email groups email")
    monkeypatch.setenv("OIDC_WITHOUT_AUTH_TIME", "on")
    monkeypatch.setenv("SSO_ONLY", "on")
    other = sso.provider()
    assert other is not None
    assert (other.scopes, other.sends_auth_time, sso.only(other)) == (("openid", "email", "groups"), False, True)
    assert found.id != replace(found, issuer=found.issuer.rstrip("/")).id


@pytest.mark.slow
def test_a_form_may_redirect_only_to_the_issuer(start: Callable[..., subprocess.CompletedProcess[str]]):
    """Chromium also applies `form-action` to redirects after a form."""
    code = "from config import settings as s; print(s.CONTENT_SECURITY_POLICY['DIRECTIVES']['form-action'])"
    elsewhere = OIDC | {"OIDC_SIGN_IN_ORIGINS": "https://login.example.com/, https://sso.example.net:8443"}
    shown = [start(["-c", code], **variables).stdout.strip() for variables in (OIDC, elsewhere, {})]
    assert shown == [
        "[\"'self'\", 'https://id.example.com']",
        "[\"'self'\", 'https://id.example.com', 'https://login.example.com', 'https://sso.example.net:8443']",
        "[\"'self'\"]",
    ]


@pytest.mark.parametrize(
    "value", ["*", "https:", "http://login.example.com", "https://a.example/path", "https://a b", "'unsafe-inline'"]
)
def test_only_plain_origins_are_added_to_the_policy(value: str, monkeypatch: pytest.MonkeyPatch):
    for name, good in OIDC.items():
        monkeypatch.setenv(name, good)
    monkeypatch.setenv("OIDC_SIGN_IN_ORIGINS", value)
    with pytest.raises(ImproperlyConfigured, match="OIDC_SIGN_IN_ORIGINS"):
        sso.provider()


def test_mail_is_read_from_its_url(monkeypatch: pytest.MonkeyPatch):
    assert mail.of_environment("panel.example.com") is None
    monkeypatch.setenv("EMAIL_URL", "submission://me%40example.com:pa%2Fss@mail.example.com:587")
    found = mail.of_environment("panel.example.com")
    assert found is not None
    assert (found.host, found.port, found.user, found.password) == ("mail.example.com", 587, "me@example.com", "pa/ss")
    assert (found.use_tls, found.sender) == (True, "taskruns@panel.example.com")


def test_a_secret_can_be_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "secret"
    path.write_text("a-secret-of-a-file-that-is-long-enough-0123\n")
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("SECRET_KEY_FILE", str(path))
    assert environment.secret_key() == "a-secret-of-a-file-that-is-long-enough-0123"
    path.unlink()
    with pytest.raises(ImproperlyConfigured, match="SECRET_KEY_FILE names a file that cannot be read"):
        environment.secret_key()
    path.write_text("")
    with pytest.raises(ImproperlyConfigured, match="SECRET_KEY is not set"):
        environment.secret_key()


REDIS = "redis://queue?socket_connect_timeout=3&socket_timeout=10"
READERS: list[tuple[str, str, Callable[[], object], object]] = [
    ("TRUSTED_PROXIES", "2", lambda: environment.integer("TRUSTED_PROXIES", 0), 2),
    ("DEBUG", "on", lambda: environment.boolean("DEBUG", default=False), True),
    ("SITE_URL", "https://panel.example.com", lambda: environment.site().url, "https://panel.example.com"),
    ("ENCRYPTION_KEYS", f"2:{FERNET}", environment.encryption_keys, {2: FERNET}),
    ("AUDIT_SIGNING_KEY", GOOD["AUDIT_SIGNING_KEY"], environment.signing_key, b"audit-signing-key-of-the-tests-1"),
    ("AUDIT_PUBLIC_KEYS", GOOD["AUDIT_SIGNING_KEY"], environment.public_keys, (b"audit-signing-key-of-the-tests-1",)),
    ("ARIZE_ENDPOINTS", "http://a, ,http://b:81/", environment.arize_endpoints, ("http://a", "http://b:81")),
    ("NOTIFY_HOSTS", "Alerts/, b:81", environment.notify_hosts, ("alerts", "b:81")),
    ("DATABASE_URL", "postgres://me@db/panel", lambda: environment.database(Path("unused"))["NAME"], "panel"),
    ("QUEUE_URL", "redis://queue", lambda: environment.queue(Path("unused"))["connection"]["url"], REDIS),
    ("EMAIL_URL", "smtp://mail:25", lambda: found_mail().host, "mail"),
    ("OIDC_GROUP_ROLES", "a=north:viewer", lambda: [role.team for role in sso.group_roles()], ["north"]),
    ("OIDC_GROUPS_CLAIM", "roles", lambda: environment.text("OIDC_GROUPS_CLAIM", "groups"), "roles"),
]
READER_IDS = [name for name, _, _, _ in READERS]


def found_mail() -> mail.Mail:
    found = mail.of_environment("panel.example.com")
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "value", "read", "wanted"), READERS, ids=READER_IDS)
def test_every_kind_of_value_can_be_read_from_a_file(
    name: str, value: str, read: Callable[[], object], wanted: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "value"
    path.write_text(f"{value}\n")
    monkeypatch.setenv(name, "the file counts")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert read() == wanted


@pytest.mark.parametrize(("name", "value", "read", "wanted"), READERS, ids=READER_IDS)
def test_whitespace_around_a_value_is_ignored(
    name: str, value: str, read: Callable[[], object], wanted: object, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, f"  {value}\t")
    assert read() == wanted


@pytest.mark.parametrize("name", READER_IDS)
@pytest.mark.parametrize("kind", ["missing", "a directory", "below a file", "not text"])
def test_an_unreadable_file_is_an_error(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "not text").write_bytes(b"s3kr3t \xff")
    paths = {"a directory": tmp_path, "below a file": tmp_path / "not text" / "value"}
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{name}_FILE", str(paths.get(kind, tmp_path / kind)))
    read = next(read for reader, _, read, _ in READERS if reader == name)
    with pytest.raises(ImproperlyConfigured) as refused:
        read()
    assert str(refused.value) == f"{name}_FILE names a file that cannot be read. Check its permissions."
    assert "s3kr3t" not in "".join(traceback.format_exception(refused.value))


DEFAULTS: list[tuple[str, Callable[[], object], object]] = [
    ("AUDIT_PUBLIC_KEYS", environment.public_keys, ()),
    ("AUDIT_ANCHOR_FILE", environment.anchor_file, ""),
    ("EMAIL_URL", lambda: mail.of_environment("panel.example.com"), None),
    ("OIDC_ISSUER", sso.provider, None),
    ("OIDC_GROUP_ROLES", sso.group_roles, ()),
    ("DATABASE_URL", lambda: environment.database(ROOT / "default")["NAME"], str(ROOT / "default")),
    ("QUEUE_URL", lambda: environment.queue(ROOT / "default")["filename"], str(ROOT / "default")),
    ("DATA_DIR", environment.data_dir, ROOT / "var"),
]


@pytest.mark.parametrize("value", ["", " \t"])
@pytest.mark.parametrize(("name", "read", "wanted"), DEFAULTS, ids=[name for name, _, _ in DEFAULTS])
def test_an_empty_value_counts_as_unset(
    name: str, read: Callable[[], object], wanted: object, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "mkdir", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(environment, "_close_to_others", lambda _directory: None)
    monkeypatch.setenv(name, value)
    assert read() == wanted


@pytest.mark.parametrize("name", ["SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_secret_counts_as_unset(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    readers = (environment.secret_key, environment.encryption_keys, environment.signing_key)
    read = readers[["SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY"].index(name)]
    with pytest.raises(ImproperlyConfigured, match=f"^{name} is not set"):
        read()


def test_debug_is_refused_with_a_public_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEBUG", "on")
    assert environment.debug(environment.site()) is True, "on localhost"
    monkeypatch.setenv("SITE_URL", "https://panel.example.com")
    with pytest.raises(ImproperlyConfigured, match=r"^DEBUG must be off when SITE_URL is https\. "):
        environment.debug(environment.site())
    monkeypatch.setenv("DEBUG", "off")
    assert environment.debug(environment.site()) is False


def test_an_empty_value_is_the_default(monkeypatch: pytest.MonkeyPatch):
    for name in ("SITE_URL", "DEBUG", "TRUSTED_PROXIES", "ARIZE_ENDPOINTS"):
        monkeypatch.setenv(name, "  ")
    assert environment.site().url == "http://localhost:8000"
    assert environment.boolean("DEBUG", default=False) is False
    assert environment.integer("TRUSTED_PROXIES", 0) == 0
    assert environment.arize_endpoints() == ()


def test_the_newest_encryption_key_comes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENCRYPTION_KEYS", f" 7:{FERNET} , 3:{FERNET}")
    assert list(environment.encryption_keys()) == [7, 3]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("redis://queue/0", "redis://queue/0?socket_connect_timeout=3&socket_timeout=10"),
        ("redis://queue/0?db=1", "redis://queue/0?db=1&socket_connect_timeout=3&socket_timeout=10"),
        ("redis://q?socket_timeout=2&socket_connect_timeout=1", "redis://q?socket_timeout=2&socket_connect_timeout=1"),
    ],
)
def test_a_redis_that_no_longer_answers_holds_nobody_for_long(given: str, used: str, monkeypatch: Any):
    monkeypatch.setenv("QUEUE_URL", given)
    assert environment.queue(Path("unused"))["connection"]["url"] == used
    pool = redis.ConnectionPool.from_url(used)
    assert 0 < pool.connection_kwargs["socket_connect_timeout"] <= 3
