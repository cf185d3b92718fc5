"""The figures of /metrics, in Prometheus's text format.

They come from the database, so every web process answers the same. Each query reads at most some 10,000 rows by an
index, however long the panel has been running. No label has more values than there are teams or keys.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import django
import structlog
from django.conf import settings
from django.db import connection
from django.db.models import Count, OuterRef, Subquery, Sum
from huey.contrib.djhuey import HUEY
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from taskruns import __version__
from taskruns.audit import CATALOGUE, EventType, anchors
from taskruns.audit.record import chain_of
from taskruns.models import (
    AuditAnchor,
    AuditChain,
    AuditEvent,
    BatchState,
    CancelItem,
    Cancellation,
    Credential,
    EmergencyStop,
    Heartbeat,
    KeyUsage,
    PersonSession,
    Run,
    Status,
    Team,
)
from taskruns.models.batches import ITEM_STATES
from taskruns.models.jobs import QUEUE, WORKER
from taskruns.models.runs import ACTIVE
from taskruns.models.stamps import SKEW
from taskruns.services import heartbeats
from taskruns.services.mirror import staleness

log = structlog.get_logger(__name__)
CONTENT_TYPE = CONTENT_TYPE_LATEST
MOST = 10_000  # a higher count is shown as this
MOST_TEAMS = MOST_KEYS = 1_000
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ENDED = tuple(status for status in Status if status not in ACTIVE)


def text() -> bytes:
    """Raises DatabaseError."""
    registry = CollectorRegistry()
    registry.register(Panel())
    return generate_latest(registry)


class Panel(Collector):
    def describe(self) -> list[Metric]:
        """Nothing is read before the first `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        now = heartbeats.database_now()
        for figures in FIGURES:
            yield from figures(now)


def _build(_now: datetime) -> Iterator[Metric]:
    labels = {
        "version": __version__,
        "python": platform.python_version(),
        "django": django.get_version(),
        "database": connection.vendor,
    }
    yield _gauge("taskruns_build_info", "Always 1.", tuple(labels), [(tuple(labels.values()), 1)])


def _runs(now: datetime) -> Iterator[Metric]:
    """Counted status by status: grouping would read all runs of a team."""
    counts = [f"({_count('r.status = %s AND r.rank = 1')})" for _ in ACTIVE]
    counts += [f"({_count(f'r.status = %s AND {_since(status)} >= %s')})" for status in ENDED]
    since = connection.ops.adapt_datetimefield_value(now - DAY)
    parameters = [*map(str, ACTIVE), *(value for status in ENDED for value in (str(status), since))]
    query = (
        f"SELECT t.slug, {', '.join(counts)} FROM {Team._meta.db_table} t "  # noqa: S608 - our names
        f"WHERE t.archived_at IS NULL ORDER BY t.slug LIMIT {MOST_TEAMS}"
    )
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        rows = cursor.fetchall()
    yield _by_team("taskruns_runs_active", f"Active runs, at most {MOST}.", rows, ACTIVE, start=1)
    what = f"Runs that ended in the last 24 hours (unknown: that were created then), at most {MOST}."
    yield _by_team("taskruns_runs_ended_24h", what, rows, ENDED, start=1 + len(ACTIVE))


def _since(status: Status) -> str:
    """Nobody knows whether, and when, a run with an unknown status ended."""
    return "r.rank = 0 AND r.sorted_at" if status == Status.UNKNOWN else "r.ended_at"


def _count(condition: str) -> str:
    runs = f"SELECT 1 FROM {Run._meta.db_table} r WHERE r.team_id = t.id AND {condition} LIMIT {MOST}"  # noqa: S608 - our names
    return f"SELECT count(*) FROM ({runs}) x"  # noqa: S608 - our names


def _by_team(name: str, what: str, rows: Sequence[Sequence[Any]], statuses: Sequence[Status], *, start: int) -> Metric:
    counts = [
        ((row[0], str(status)), row[start + nth])  # row[0]: the team
        for row in rows
        for nth, status in enumerate(statuses)
    ]
    return _gauge(name, what, ("team", "status"), counts)


def _keys(now: datetime) -> Iterator[Metric]:
    """Rejected keys have no ages: the board does not promise any either."""
    keys = staleness.with_ages(Credential.objects.live().defer("ciphertext"), now + SKEW).select_related("team")
    found = list(keys.order_by("team__slug", "pk")[:MOST_KEYS])
    labels = ("team", "key")
    failing = [(_key(key), int(key.failing_since is not None)) for key in found]
    yield _gauge("taskruns_key_failing", "1 if Arize rejects this API key.", labels, failing)
    ages = {key: staleness.ages_of([key]) for key in found}
    statuses = [(_key(key), _age(now, it.statuses_at)) for key, it in ages.items() if it.statuses_at]
    what = "Age of the oldest reading among the active runs that this API key reads."
    yield _gauge("taskruns_key_oldest_reading_seconds", what, labels, statuses)
    searched = [(_key(key), _age(now, it.searched_at)) for key, it in ages.items() if it.searched_at]
    what = "Time since all tasks of this API key were searched for new runs."
    yield _gauge("taskruns_key_oldest_search_seconds", what, labels, searched)
    late = max((_age(now, key.next_refresh_at) for key in found if key.failing_since is None), default=0.0)
    what = "How late the most overdue reading of an API key is."
    yield _gauge("taskruns_oldest_due_reading_seconds", what, (), [((), late)])


def _key(key: Credential) -> tuple[str, str]:
    return key.team.slug, str(key.pk)


def _calls(now: datetime) -> Iterator[Metric]:
    of_day = KeyUsage.objects.filter(hour__gt=now - DAY, credential__in=Credential.objects.live())
    columns = ("credential__team__slug", "credential_id")
    by_key = of_day.values(*columns).order_by(*columns)
    rows = list(by_key.annotate(calls=Sum("calls"), limited=Sum("limited"))[:MOST_KEYS])
    for name, column, what in (
        ("taskruns_key_calls_24h", "calls", "Calls to Arize with this API key in the last 24 hours."),
        ("taskruns_key_limited_calls_24h", "limited", "Those of them that Arize answered with 429."),
    ):
        samples = [((row["credential__team__slug"], str(row["credential_id"])), row[column]) for row in rows]
        yield _gauge(name, what, ("team", "key"), samples)


def _cancels(now: datetime) -> Iterator[Metric]:
    """From the audit log, which has an index on time."""
    newest = AuditEvent.objects.filter(at__gte=now - HOUR).order_by("-at").values_list("event", "outcome")[:MOST]
    counts = Counter(outcome for event, outcome in newest if event == EventType.RUN_CANCEL and outcome != "requested")
    samples = [((outcome,), counts[outcome]) for outcome in sorted(CATALOGUE[EventType.RUN_CANCEL] - {"requested"})]
    what = "Cancels by outcome in the last hour, from its 10,000 newest audit rows."
    yield _gauge("taskruns_cancels_1h", what, ("outcome",), samples)
    unsent = Cancellation.objects.filter(posted_at=None, outcome="").order_by("requested_at")
    oldest = unsent.values_list("requested_at", flat=True).first()
    what = "Age of the oldest cancel that waits for the worker to send it; 0 if there is none."
    yield _gauge("taskruns_oldest_unsent_cancel_seconds", what, (), [((), _age(now, oldest) if oldest else 0)])


def _batches(_now: datetime) -> Iterator[Metric]:
    unfinished = CancelItem.objects.filter(batch__finished_at=None).exclude(batch__state=BatchState.DRAFT)
    counts = dict(unfinished.values_list("state").annotate(Count("pk")).order_by())
    samples = [((state,), counts.get(state, 0)) for state in sorted(ITEM_STATES)]
    yield _gauge("taskruns_batch_items", "Runs in unfinished bulk cancels and starts, by state.", ("state",), samples)


def _stops(_now: datetime) -> Iterator[Metric]:
    holding = EmergencyStop.objects.holding().count()
    yield _gauge("taskruns_emergency_stops_holding", "Emergency stops that hold.", (), [((), holding)])


def _queue(_now: datetime) -> Iterator[Metric]:
    """Left out if the queue is down: asking it would only take time."""
    if not heartbeats.was_seen(QUEUE, within=timedelta(minutes=1)):
        return
    try:
        length = HUEY.storage.queue_size()
    except Exception as error:  # noqa: BLE001 - depends on the queue's backend
        log.warning("queue_not_counted", error=type(error).__name__)
        return
    yield _gauge("taskruns_queue_jobs", "Messages that wait in the queue.", (), [((), length)])


def _heartbeats(now: datetime) -> Iterator[Metric]:
    seen = Heartbeat.objects.filter(pk__in=(WORKER, QUEUE)).order_by("pk").values_list("pk", "seen_at")
    samples = [((name,), _age(now, at)) for name, at in seen]
    what = "Time since the worker, and the queue as the worker sees it, were last seen."
    yield _gauge("taskruns_heartbeat_age_seconds", what, ("name",), samples)


def _audit(now: datetime) -> Iterator[Metric]:
    slugs = {chain_of(pk): slug for pk, slug in Team.objects.order_by("slug").values_list("pk", "slug")[:MOST_TEAMS]}
    slugs[chain_of(None)] = "site"
    newest = AuditAnchor.objects.filter(chain=OuterRef("chain")).order_by("-seq", "-pk")
    columns = {f"anchor_{name}": Subquery(newest.values(name)[:1]) for name in ("seq", "signed_at")}
    rows = AuditChain.objects.filter(chain__in=slugs).annotate(**columns).values_list("chain", "seq", *columns)
    found = sorted((slugs[chain], *rest) for chain, *rest in rows)
    total = CounterMetricFamily("taskruns_audit_rows", "Rows of each audit log.", labels=("log",))
    for slug, seq, _, _ in found:
        total.add_metric((slug,), seq)
    yield total
    behind = [((slug,), seq - (anchored or 0)) for slug, seq, anchored, _ in found]
    yield _gauge("taskruns_audit_unanchored_rows", "Rows after the newest anchor of each audit log.", ("log",), behind)
    ages = [((slug,), _age(now, at)) for slug, _, _, at in found if at is not None]
    yield _gauge("taskruns_audit_newest_anchor_age_seconds", "Age of each log's newest anchor.", ("log",), ages)
    if settings.AUDIT_ANCHOR_FILE:
        unwritten = int(anchors.unwritten_since() is not None)
        yield _gauge("taskruns_anchor_file_failing", "1 if AUDIT_ANCHOR_FILE cannot be written.", (), [((), unwritten)])


def _sessions(now: datetime) -> Iterator[Metric]:
    live = len(PersonSession.objects.filter(expire_date__gt=now).values_list("pk")[:MOST])
    yield _gauge("taskruns_sessions", f"Sessions of signed-in people, at most {MOST}.", (), [((), live)])


def _age(now: datetime, at: datetime) -> float:
    """Seconds. A time in the future, left by another clock, counts as now."""
    return max((now - at).total_seconds(), 0.0)


def _gauge(name: str, what: str, labels: Sequence[str], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


FIGURES = (
    *(_build, _runs, _keys, _calls, _cancels, _batches),
    *(_stops, _queue, _heartbeats, _audit, _sessions),
)
