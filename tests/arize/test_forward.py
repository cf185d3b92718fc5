"""Passing a GET on: the exact path and query, any answer as it came, and never a piece of the key."""

import json
import socket

import pytest

from taskruns.arize import errors
from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError
from taskruns.arize.values import without_key
from taskruns.outbound import LONGEST_PAGE
from tests.outbound.raw_server import QUICK, SAMPLE, answer, say

KEY = "ak-canary-7f3d9b2e51c84a60"


def kept(url: str, **kwargs) -> ArizeClient:
    return ArizeClient(url, KEY, timeouts=QUICK, get_retries=None, **kwargs)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "limit=1&cursor=eyJpZCI6MX0%3d&cursor=eyJpZCI6MX0%3D",
        "name=a+b%20c%7E~&name=&x",
        "a=1&a=2&b[]=%zz&=&&",
        "cursor=https://evil.example/../?x='()*!",
    ],
)
def test_path_and_query_arrive_as_they_were_sent(server, query):
    arize = server(say(answer()))
    with kept(arize.url) as client:
        client.forward(["tasks", "T1=/x", "runs"], query)
    line = arize.requests[0].split(b"\r\n")[0].decode()
    assert line == f"GET /v2/tasks/T1%3D%2Fx/runs{'?' if query else ''}{query} HTTP/1.1"


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "401 No", "404 Gone", "429 Slow", "500 Oops", "503 Busy"])
def test_any_answer_passes_as_it_came(server, status):
    body = b'{"title": "\xc3\xa4",  "x":1.0}'
    headers = b"Content-Type: application/problem+json\r\nRetry-After: 42\r\nSet-Cookie: a=b\r\n"
    arize = server(say(answer(status.encode(), body, headers)))
    with kept(arize.url) as client:
        found = client.forward(["tasks"], "")
    assert (found.status, found.body) == (int(status[:3]), body)
    assert (found.content_type, found.retry_after) == ("application/problem+json", "42")
    assert (client.calls, client.limited) == (1, int(status[:3] == "429"))


def test_connection_is_kept_and_a_closed_one_is_replaced(server):
    """A server closes an idle connection at any time. Only the second attempt shows whether it works."""
    served = []

    def serve(stream, head):
        served.append(head)
        if len(served) == 3:
            stream.shutdown(socket.SHUT_RDWR)
            return "close"
        stream.sendall(answer())
        return None

    arize = server(serve)
    with kept(arize.url) as client:
        for _ in range(3):
            assert client.forward(["tasks"], "").body == SAMPLE
        assert (arize.connections, client.calls) == (2, 4)


def test_silent_server_is_asked_once(server):
    arize = server(lambda *_: None)
    with kept(arize.url) as client, pytest.raises(errors.NoAnswer):
        client.forward(["tasks"], "")
    assert (client.calls, len(arize.requests)) == (1, 1)


def test_redirect_is_an_error(server):
    arize = server(say(answer(b"307 Moved", b"", b"Location: http://127.0.0.1:1/\r\n")))
    with kept(arize.url) as client, pytest.raises(errors.UnexpectedAnswer):
        client.forward(["tasks"], "")
    assert len(arize.requests) == 1


def test_too_long_answer_is_an_error(server):
    arize = server(say(answer(body=b" " * (LONGEST_PAGE + 1))))
    with kept(arize.url) as client, pytest.raises(errors.Unreadable):
        client.forward(["tasks"], "")
    with kept(server(say(answer(body=b" " * LONGEST_PAGE))).url) as client:
        assert len(client.forward(["tasks"], "").body) == LONGEST_PAGE


@pytest.mark.parametrize("begin", range(0, len(KEY) - 7, 3))
def test_no_piece_of_the_key_passes(server, begin):
    piece = KEY[begin : begin + 8]
    body = f'{{"detail": "key {piece} or {KEY} of \u00e4"}}'.encode()
    headers = f"Content-Type: text/{piece}\r\nRetry-After: {piece}\r\n".encode()
    arize = server(say(answer(b"401 No", body, headers)))
    with kept(arize.url) as client:
        found = client.forward(["tasks"], "")
    assert found.body == '{"detail": "key [key] or [key] of \u00e4"}'.encode()


@pytest.mark.parametrize("digits", ["04x", "04X"])
def test_key_is_redacted_behind_the_escapes_of_json(digits):
    hidden = "".join(f"\\u{ord(character):{digits}}" for character in KEY)
    other = rb'{"a": "\u0022\u00e4\u005c\\u0041"'
    assert without_key(other + f', "b": "{hidden}"}}'.encode(), KEY) == other + b', "b": "[key]"}'
    half = f'{{"b": "{KEY[:5]}{hidden[30:60]}"}}'.encode()
    assert json.loads(without_key(half, KEY)) == {"b": "[key]"}
    assert without_key(other + b"}", KEY) == other + b"}"


@pytest.mark.parametrize(
    "path", [["tasks", ".."], ["tasks", "."], ["tasks", ""], ["tasks", "a\0"], ["tasks", "\ud800"]]
)
def test_what_cannot_be_a_path_segment_is_not_sent(server, path):
    arize = server(say(answer()))
    with kept(arize.url) as client, pytest.raises(ArizeError) as caught:
        client.forward(path, "")
    assert (caught.value.status, arize.requests) == (None, [])
