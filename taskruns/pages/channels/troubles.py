"""Why a message could not be sent, in words."""

from collections.abc import Mapping

from taskruns.services.channels.sending import Trouble

_SENTENCES: Mapping[str, str] = {
    Trouble.NOT_ALLOWED: "Its address is no longer allowed. Enter a public https address, or ask for NOTIFY_HOSTS.",
    Trouble.NOT_DECRYPTABLE: "Its address cannot be decrypted. Enter it again, or restore the missing encryption key.",
    Trouble.MAIL: "The mail server did not take it. Check the addresses and the mail server.",
    Trouble.NO_MAIL: "This panel sends no mail: EMAIL_URL is not set.",
    Trouble.NOBODY: "Everyone it was for has left the team or lost the right to see its runs.",
    "no_answer": "The receiver took the request but did not answer within 10 seconds.",
    "no_connection": "The receiver could not be reached: the connection was refused.",
    "connect_timeout": "The receiver could not be reached: it did not react.",
    "unknown_host": "The host name of its address does not exist.",
    "private_address": "Its host has a private address. Ask your administrator to add it to NOTIFY_HOSTS.",
    "untrusted_certificate": "The receiver's certificate is not trusted.",
    "proxy_unreachable": "The proxy of this panel could not be reached.",
    "proxy_refused": "The proxy of this panel does not let it through.",
    "proxy_password": "The proxy of this panel refused the panel's password.",
    "proxy_failed": "The proxy of this panel failed.",
    "not_for_proxy": "Its host is private, so the proxy was not asked for it.",
}
_BY_STATUS = {
    401: "It does not accept this address or its secret.",
    403: "It does not accept this address or its secret.",
    404: "The address may be incomplete, or the webhook was deleted.",
    410: "The webhook was deleted.",
    429: "It takes no more messages at the moment.",
}


def trouble_of(failure: str, status: int | None) -> str:
    """A sentence; empty if nothing failed."""
    if not failure:
        return ""
    if failure == Trouble.STATUS:
        moved = "It has moved: enter its new address." if status is not None and 300 <= status <= 399 else ""
        return f"The receiver answered with the status {status}. {_BY_STATUS.get(status or 0, moved)}".rstrip()
    return _SENTENCES.get(failure, "It could not be sent.")
