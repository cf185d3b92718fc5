"""The fixed part of the world: spaces, people and tasks, and the format of Arize's ids.

All times are milliseconds of simulated time; the world starts at 0.
"""

import base64
import binascii
import hashlib
import random
import re
from dataclasses import dataclass
from enum import StrEnum

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DECODED_ID = re.compile(r"[A-Za-z]+:[0-9]{1,18}:[A-Za-z0-9_-]+")


def identifier(*, kind: str, number: int, seed: int = 0) -> str:
    """The id of object `number`: padded base64 of `Kind:number:suffix`. The suffix depends on the seed."""
    digest = hashlib.sha256(f"{seed}:{kind}:{number}".encode()).digest()
    suffix = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:4])
    return base64.b64encode(f"{kind}:{number}:{suffix}".encode()).decode()


def is_identifier(text: str) -> bool:
    """As strict as Arize: no missing padding, no stray characters."""
    try:
        decoded = base64.b64decode(text, validate=True)
        is_id = _DECODED_ID.fullmatch(decoded.decode("ascii")) is not None
    except (binascii.Error, ValueError):
        return False
    return is_id and base64.b64encode(decoded).decode() == text


DAY_MS = 86_400_000
ORGANIZATION_ID = identifier(kind="AccountOrganization", number=1)

SPACE_NAMES = ("support-bot", "search-ranking", "sales-copilot", "fraud-watch")
_SPACE_PURPOSES = (
    "The customer support assistant, all channels",
    "Query understanding and result ranking",
    "Drafts offers and follow-ups for account managers",
    "Explains and reviews suspicious payments",
)
_PEOPLE = ("Nora Lindqvist", "Tomás Herrera", "Aiko Tanaka", "Femi Adeyemi", "Eval Pipeline (service key)")

_TEMPLATE_NAMES = (
    "Hallucination evaluation",
    "Answer relevance evaluation",
    "Groundedness",
    "Toxicity evaluation",
    "Summary quality evaluation",
    "Retrieval relevance",
    "Tone of voice evaluation",
    "User frustration",
    "Refusal quality evaluation",
    "Q&A correctness",
    "Helpfulness evaluation",
    "Escalation need",
)
_CODE_NAMES = (
    "PII leak scan",
    "JSON schema check",
    "Citation link check",
    "Tool call arguments evaluation",
    "Response length check",
    "SQL validity",
)
_EXPERIMENT_NAMES = (
    "Prompt v12 on golden set",
    "Model upgrade regression",
    "Golden set evaluation",
    "Few-shot variants",
    "Reranker comparison",
    "Agent plan replay",
)
_VARIANTS = ("nightly", "EU traffic", "canary", "mobile", "beta users", "weekend")


class TaskType(StrEnum):
    TEMPLATE_EVALUATION = "TEMPLATE_EVALUATION"
    CODE_EVALUATION = "CODE_EVALUATION"
    RUN_EXPERIMENT = "RUN_EXPERIMENT"


_NAMES = {
    TaskType.TEMPLATE_EVALUATION: _TEMPLATE_NAMES,
    TaskType.CODE_EVALUATION: _CODE_NAMES,
    TaskType.RUN_EXPERIMENT: _EXPERIMENT_NAMES,
}
# Five and four have no common divisor, so every space gets every type.
_TYPE_ROUND = (
    TaskType.TEMPLATE_EVALUATION,
    TaskType.CODE_EVALUATION,
    TaskType.TEMPLATE_EVALUATION,
    TaskType.RUN_EXPERIMENT,
    TaskType.TEMPLATE_EVALUATION,
)


@dataclass(frozen=True, slots=True)
class Space:
    number: int
    id: str
    name: str
    description: str
    is_private: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class User:
    number: int
    id: str
    name: str
    email: str
    role: str
    is_developer: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class Evaluator:
    id: str
    name: str
    version_id: str | None


@dataclass(frozen=True, slots=True)
class Task:
    """A task belongs to either a project or a dataset. Arize's answer does not contain its space."""

    index: int
    number: int
    id: str
    space: Space
    name: str
    type: TaskType
    project_id: str | None
    dataset_id: str | None
    sampling_rate: float | None
    is_continuous: bool
    query_filter: str | None
    evaluators: tuple[Evaluator, ...]
    created_ms: int
    updated_ms: int
    created_by: User


def _space(index: int) -> Space:
    return Space(
        number=index + 1,
        id=identifier(kind="Space", number=index + 1),
        name=SPACE_NAMES[index],
        description=_SPACE_PURPOSES[index],
        is_private=index == len(SPACE_NAMES) - 1,
        created_ms=-(400 - 30 * index) * DAY_MS,
    )


def _user(index: int) -> User:
    first_name = _PEOPLE[index].split()[0].lower().replace("á", "a")
    return User(
        number=index + 1,
        id=identifier(kind="User", number=index + 1),
        name=_PEOPLE[index],
        email=f"{first_name}@example.com",
        role="ADMIN" if index == 0 else "MEMBER",
        is_developer=True,
        created_ms=-(410 - 20 * index) * DAY_MS,
    )


SPACES = tuple(_space(index) for index in range(len(SPACE_NAMES)))
USERS = tuple(_user(index) for index in range(len(_PEOPLE)))


def build_tasks(*, seed: int, count: int) -> tuple[Task, ...]:
    """The first `count` tasks of this seed; a larger count only adds tasks."""
    return tuple(_task(index=index, seed=seed) for index in range(count))


def _task(*, index: int, seed: int) -> Task:
    number = 101 + index
    chance = random.Random(f"{seed}:task:{number}")
    kind = _TYPE_ROUND[index % len(_TYPE_ROUND)]
    on_project = kind is not TaskType.RUN_EXPERIMENT and chance.random() < 0.75
    created_ms = -chance.randrange(20 * DAY_MS, 200 * DAY_MS)
    name = _name(index=index, kind=kind)
    return Task(
        index=index,
        number=number,
        id=identifier(kind="OnlineTask", number=number, seed=seed),
        space=SPACES[index % len(SPACES)],
        name=name,
        type=kind,
        project_id=identifier(kind="Model", number=number, seed=seed) if on_project else None,
        dataset_id=None if on_project else identifier(kind="Dataset", number=number, seed=seed),
        sampling_rate=chance.choice((1, 0.5, 0.25, 0.1)) if on_project else None,
        is_continuous=on_project and chance.random() < 0.4,
        query_filter=chance.choice((None, None, "span_kind = 'LLM'", "latency_ms > 2000")),
        evaluators=() if kind is TaskType.RUN_EXPERIMENT else (_evaluator(number=number, name=name, seed=seed),),
        created_ms=created_ms,
        updated_ms=created_ms // 3,
        created_by=chance.choice(USERS),
    )


def _name(*, index: int, kind: TaskType) -> str:
    rounds, place = divmod(index, len(_TYPE_ROUND))
    nth = rounds * _TYPE_ROUND.count(kind) + _TYPE_ROUND[:place].count(kind)
    lap, position = divmod(nth, len(_NAMES[kind]))
    name = _NAMES[kind][position]
    if lap == 0:
        return name
    edition, variant = divmod(lap - 1, len(_VARIANTS))
    return f"{name}, {_VARIANTS[variant]}" + (f" {edition + 1}" if edition else "")


def _evaluator(*, number: int, name: str, seed: int) -> Evaluator:
    return Evaluator(
        id=identifier(kind="Evaluator", number=number, seed=seed),
        name=name.partition(",")[0].lower().replace(" ", "_"),
        version_id=identifier(kind="EvaluatorVersion", number=number, seed=seed) if number % 2 else None,
    )
