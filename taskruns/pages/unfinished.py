"""The page that finishes an act after its person has confirmed who they are."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.urls import Resolver404, resolve

from taskruns.models import Channel, Credential, Invitation, Membership, Token, User

# Url name -> what its form does, as a button.
ACTS = {
    "team-new": "Create the team",
    "team-settings": "Save the settings",
    "team-archive": "Archive the team",
    "member-add": "Add the member",
    "member-role": "Change the role",
    "member-remove": "Remove from the team",
    "invitation-revoke": "Revoke the invitation",
    "credential-new": "Add the API key",
    "credential-replace": "Replace the API key",
    "credential-test": "Test the API key",
    "credential-revoke": "Revoke the API key",
    "channel-new": "Add the channel",
    "channel-change": "Change the channel",
    "channel-test": "Send a test message",
    "channel-remove": "Remove the channel",
    "channel-rule-new": "Add the rule",
    "channel-rule": "Change the rule",
    "channel-rule-remove": "Remove the rule",
    "arize-hook": "Create the address",
    "arize-hook-secret": "Store the secret",
    "arize-hook-remove": "Remove the address",
    "token-new": "Create the token",
    "token-replace": "Replace the token",
    "person-change": "Save name and email",
    "person-role": "Change the site role",
    "person-disable": "Disable the account",
    "person-enable": "Enable the account",
    "person-sessions-end": "End all sessions",
    "factor-totp": "Add the authenticator app",
    "factor-passkey": "Add the passkey",
    "factor-recovery-codes": "Create new recovery codes",
    "factor-remove": "Remove the second factor",
    "sso-connect": "Connect single sign-on",
    "sso-disconnect": "Disconnect single sign-on",
}
OTHER = "Send the form"


@dataclass(frozen=True, slots=True)
class SentField:
    name: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class UnfinishedPage:
    """`act`: the button. `kind`, `target`: what it acts on, if known."""

    act: str
    kind: str
    target: str
    fields: tuple[SentField, ...]
    url: str
    back_url: str


def act_of(path: str) -> str:
    try:
        return ACTS.get(resolve(path).url_name or "", OTHER)
    except Resolver404:
        return OTHER


def unfinished_page(path: str, fields: Iterable[tuple[str, str]], *, back_url: str) -> UnfinishedPage:
    kind, target = _target(resolve(path).kwargs)
    shown = tuple(SentField(name, name.replace("_", " ").capitalize(), value) for name, value in fields)
    return UnfinishedPage(act_of(path), kind, target, shown, url=path, back_url=back_url)


def _member(ids: Mapping[str, Any]) -> str | None:
    rows = Membership.objects.filter(team__slug=ids["slug"], user=ids["user_id"])
    return rows.values_list("user__email", flat=True).first()


def _key(ids: Mapping[str, Any]) -> str | None:
    rows = Credential.objects.filter(team__slug=ids["slug"], pk=ids["credential_id"])
    return rows.values_list("name", flat=True).first()


def _channel(ids: Mapping[str, Any]) -> str | None:
    rows = Channel.objects.filter(team__slug=ids["slug"], pk=ids["channel_id"])
    return rows.values_list("name", flat=True).first()


def _token(ids: Mapping[str, Any]) -> str | None:
    rows = Token.objects.filter(team__slug=ids["slug"], pk=ids["token_id"])
    return rows.values_list("name", flat=True).first()


def _invited(ids: Mapping[str, Any]) -> str | None:
    rows = Invitation.objects.filter(team__slug=ids["slug"], pk=ids["invitation_id"])
    return rows.values_list("email", flat=True).first()


def _person(ids: Mapping[str, Any]) -> str | None:
    return User.objects.filter(pk=ids["person_id"]).values_list("email", flat=True).first()


# Only within the team of the url: an id from elsewhere must not reveal a name.
_TARGETS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str | None]]] = {
    "user_id": ("Member", _member),
    "credential_id": ("API key", _key),
    "channel_id": ("Channel", _channel),
    "token_id": ("Token", _token),
    "invitation_id": ("Invitation", _invited),
    "person_id": ("Person", _person),
    "slug": ("Team", lambda ids: ids["slug"]),
}


def _target(ids: Mapping[str, Any]) -> tuple[str, str]:
    kind, find = next((found for name, found in _TARGETS.items() if name in ids), ("", lambda _: ""))
    return kind, find(ids) or ""
