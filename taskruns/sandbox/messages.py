"""What comes in and what goes out, apart from sockets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from taskruns.sandbox.problems import Problem

MANY_FIELDS = 100


@dataclass(frozen=True, slots=True)
class Request:
    """`path` and `query` are raw, as they came over the wire."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""

    @property
    def segments(self) -> list[str]:
        """The path's parts, percent-decoded one by one: `%2F` inside an id is no separator."""
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def bearer(self) -> str | None:
        """The key of `Authorization: Bearer <key>`; Arize takes no other form under /v2."""
        scheme, _, key = (self.header("authorization") or "").partition(" ")
        return key.strip() or None if scheme == "Bearer" else None

    def parameters(self) -> "Parameters":
        try:
            fields = parse_qs(self.query, keep_blank_values=True, max_num_fields=MANY_FIELDS)
        except ValueError:
            raise Problem(400, f"A query takes at most {MANY_FIELDS} fields.") from None
        return Parameters(fields)

    def json(self) -> object:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Problem(400, "The body is not JSON.") from None


@dataclass(frozen=True, slots=True)
class Parameters:
    fields: Mapping[str, list[str]]

    def one(self, name: str) -> str | None:
        """The only value of a parameter, or None. Raises Problem 400 when it is given twice."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Problem(400, f"{name} takes one value.")
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(document: object, *, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def problem_answer(problem: Problem, *, instance: str, request_id: str) -> Answer:
    document = problem.document(instance=instance, request_id=request_id)
    headers = {"Content-Type": "application/problem+json", **problem.headers}
    return Answer(problem.status, json.dumps(document).encode(), headers)
