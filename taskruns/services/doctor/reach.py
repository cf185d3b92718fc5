"""Checks of what this host must reach: the queue, the proxy, single sign-on, mail and Arize."""

import json
import smtplib
import socket
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import get_connection
from huey.contrib.djhuey import HUEY

from taskruns.arize.endpoints import EndpointRefused, check_endpoint, normalise
from taskruns.outbound import Answer, Egress, Failure, NotAnswered, Proxy, Session, Timeouts
from taskruns.sso import Provider

from .round import Check, Round

SECONDS = 3.0  # for each answer
MANY = 1_000  # messages
_WHY = {
    Failure.NO_ANSWER: "It took the request and did not answer in time",
    Failure.NO_CONNECTION: "The connection was refused or broken",
    Failure.CONNECT_TIMEOUT: "It does not take connections",
    Failure.UNKNOWN_HOST: "Its name cannot be resolved",
    Failure.PRIVATE_ADDRESS: "Its name leads to a private address",
    Failure.UNTRUSTED_CERTIFICATE: "Its certificate is not trusted",
}


def start(round_: Round) -> None:
    """One part for each thing that may hang."""
    round_.start("queue", _queue, do="Check QUEUE_URL, and that the queue's server runs.")
    if (proxy := settings.NETWORK.proxy) is not None:
        round_.start("proxy", lambda _: [_proxy(proxy)], do="Check EGRESS_PROXY, and that the proxy runs.")
    if settings.OIDC is not None:
        provider = settings.OIDC
        round_.start("single sign-on", lambda _: [_sso(provider)], do="Check OIDC_ISSUER, and the way to it.")
    if settings.MAILS and settings.EMAIL_HOST:
        round_.start("mail", lambda _: [_mail()], do="Check EMAIL_URL, and that the mail server runs.")
    start_arize(round_, settings.ARIZE_ENDPOINTS)


def start_arize(round_: Round, endpoints: Iterable[str]) -> None:
    for endpoint in sorted(set(endpoints)):
        name = f"Arize {urlsplit(endpoint).netloc}"
        round_.start(name, _arize(name, endpoint), do="Check the network, the firewall and the proxy.")


def _asked(url: str, *, public_only: bool = False) -> Answer | NotAnswered:
    """Without any secret."""
    timeouts = Timeouts(connect=SECONDS, read=SECONDS / 2)
    with Session(Egress(timeouts, public_only=public_only, network=settings.NETWORK)) as session:
        return session.ask("GET", url)


def _why(failed: NotAnswered) -> str:
    return _WHY.get(failed.why, failed.why.name.replace("_", " ").capitalize())


def _queue(_round: Round) -> Iterator[Check]:
    try:
        waiting = HUEY.storage.queue_size()
    except Exception as error:  # noqa: BLE001 - depends on the queue's backend
        do = "Check QUEUE_URL, and that the queue's server runs and accepts this password."
        yield Check("queue", "fail", f"It cannot be used ({type(error).__name__}).", do)
        return
    if waiting < MANY:
        yield Check("queue", "ok", f"It answers; {waiting} messages wait.")
    else:
        yield Check("queue", "warn", f"It answers, but {waiting} messages wait.", "Check that a worker runs.")


def _proxy(proxy: Proxy) -> Check:
    """Ask for a tunnel, and send nothing through it."""
    do = "Check EGRESS_PROXY, and that the proxy runs and lets this host through."
    split = urlsplit(proxy.url)
    target = next(
        (urlsplit(url).netloc for url in settings.ARIZE_ENDPOINTS if url.startswith("https")), "api.arize.com"
    )
    host = target if ":" in target else f"{target}:443"
    lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}"]
    lines += [f"Proxy-Authorization: {proxy.authorization}"] if proxy.authorization else []
    try:
        with socket.create_connection((split.hostname or "", split.port or 80), timeout=SECONDS) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            status = connection.recv(64).split(b" ")[1:2]
    except TimeoutError:
        return Check("proxy", "fail", "It does not answer.", do)
    except OSError:
        return Check("proxy", "fail", "It takes no connections.", do)
    if not status or not status[0].isdigit():
        return Check("proxy", "fail", "Its answer is not that of an HTTP proxy.", do)
    if status[0] == b"407":
        return Check("proxy", "fail", "It refuses the user name or password.", "Correct EGRESS_PROXY.")
    if not status[0].startswith(b"2"):
        return Check("proxy", "warn", f"It refuses a tunnel to {host} with status {int(status[0])}.", do)
    return Check("proxy", "ok", "It opens tunnels.")


def _sso(provider: Provider) -> Check:
    do = "Check OIDC_ISSUER: it must be spelt exactly as in the provider's own document."
    answer = _asked(provider.discovery_url)
    if isinstance(answer, NotAnswered):
        return Check("single sign-on", "fail", f"{_why(answer)}: {provider.name}.", "Check the way to the provider.")
    try:
        found = json.loads(answer.body) if answer.is_success else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return Check("single sign-on", "fail", f"There is no discovery document (status {answer.status}).", do)
    if found.get("issuer") != provider.issuer:
        return Check("single sign-on", "fail", "The provider's document names another issuer.", do)
    return Check("single sign-on", "ok", f"{provider.name} answers.")


def _mail() -> Check:
    """Sign in to the mail server and leave again."""
    do = "Correct EMAIL_URL. Then run manage.py send_test_mail ADDRESS."
    connection = get_connection(timeout=SECONDS)
    try:
        connection.open()
        connection.close()
    except smtplib.SMTPAuthenticationError:
        return Check("mail", "fail", "The mail server refuses the user name or password.", do)
    except (OSError, ValueError) as error:
        return Check("mail", "fail", f"The mail server cannot be used ({type(error).__name__}).", do)
    return Check("mail", "ok", "The mail server answers. No message was sent.")


def _arize(name: str, endpoint: str) -> Any:
    def work(_round: Round) -> Iterator[Check]:
        try:
            url = check_endpoint(endpoint, extra=settings.ARIZE_ENDPOINTS)
        except EndpointRefused:
            do = "Add it to ARIZE_ENDPOINTS, or replace the API keys that use it."
            yield Check(name, "fail", "Some API keys use this endpoint, which is not allowed.", do)
            return
        answer = _asked(f"{url}/v2/spaces", public_only=url not in set(map(normalise, settings.ARIZE_ENDPOINTS)))
        if isinstance(answer, NotAnswered):
            yield Check(name, "fail", f"{_why(answer)}.", "Check the network, the firewall and the proxy.")
        elif answer.status >= 500:
            yield Check(name, "warn", f"It returns errors (status {answer.status}).", "Wait, or ask Arize.")
        else:
            yield Check(name, "ok", f"It answers (status {answer.status} without a key).")

    return work
