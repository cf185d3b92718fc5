"""Compares a record with what the panel promises. Every promise says how often it was tried and what broke it.

What nobody can know is not a broken promise: if the answer to a cancel was lost, and the first thing that Arize showed
afterwards was a cancelled run, then the panel may take it for its own, even if somebody else cancelled it first.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.plan import CLAIM_LASTS, Kind
from tests.chaos.record import ACTIVE, ITSELF, OUTSIDE, Answer, Arrival, Click, Record, Row, TrueRun

WINDOW = 58.0  # seconds; see the package's docstring
READINGS_IN_A_BATCH = 6  # of a run whose cancel got no answer
SENT_WITHIN = 45.0  # seconds; no POST takes longer
ON_ITS_WAY = 2.0  # seconds; a reading counts from when the panel asked, which it knows better than Arize
RULES_LAST = 60.0  # seconds after its cancel in which a run may be read again outside the rate limit
LONGEST_SILENCE = 15.0  # seconds of a healthy key whose board is open, while other keys hang
# After these, the panel may have forgotten what it has just read.
FORGETTING = (Kind.KILL_WORKER, Kind.KILL_WEB, Kind.TERMINATE, "ended")
FORGETS_WITHIN = 10.0  # seconds
ENDED = {"completed": "finished_first", "failed": "failed_first", "cancelled": "already_cancelled"}
# The status of the answer to a click for each outcome that it may show.
STATUSES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("confirmed", "finished_first", "failed_first", "already_cancelled", "not_needed", ""), (200,)),
    "refused": (409, 429),
    "joined": (409,),
    "not_sent": (502,),
    "unknown": (502,),
}
# The person was told that nothing, or not everything, could be recorded; 0: got no answer.
NOT_TOLD = {0, 500, 503, 504}


@dataclass
class Finding:
    """One promise. `broken`: a sentence for each case. `note`: figures worth knowing."""

    promise: str
    tries: int = 0
    broken: list[str] = field(default_factory=list)
    note: str = ""


def row_first(record: Record) -> Finding:
    found = Finding("no POST without its committed row", len(record.arrivals))
    so_far: Counter[str] = Counter()
    for arrival in record.arrivals:
        so_far[arrival.run] += 1
        if not arrival.operation:
            found.broken.append(f"{_of(arrival)}: no open cancellation when it arrived")
        elif arrival.operation not in arrival.requested or len(arrival.requested) < so_far[arrival.run]:
            found.broken.append(f"{_of(arrival)}: no `requested` row of operation {arrival.operation} when it arrived")
    return found


def one_post(record: Record) -> Finding:
    found = Finding("one POST an operation, one open operation a run", len(record.requested))
    for operation, arrivals in record.arrivals_of.items():
        if operation and len(arrivals) > 1:
            found.broken.append(f"operation {operation}: {len(arrivals)} POSTs for run {arrivals[0].run}")
    for run, rows in record.rows_of_run.items():
        is_open = ""
        for row in rows:
            if row.outcome == "requested":
                if is_open:
                    found.broken.append(f"run {run}: {row.operation} requested while {is_open} was open")
                is_open = row.operation
            elif row.operation == is_open:
                is_open = ""
    return found


def every_end(record: Record) -> Finding:
    found = Finding("every requested row has an outcome", len(record.requested))
    for operation, row in record.requested.items():
        last = record.last_outcome(operation)
        if not last:
            found.broken.append(f"operation {operation} of run {row.run} has no outcome")
        elif last != record.outcomes.get(operation):
            stored = record.outcomes.get(operation)
            found.broken.append(f"operation {operation}: the log says {last}, the cancellation {stored!r}")
    return found


def unknown_is_found(record: Record) -> Finding:
    unknown = [row for row in record.rows if row.outcome == "unknown"]
    found = Finding("an unknown outcome becomes known when the run has ended", len(unknown))
    for row in unknown:
        run = record.runs[row.run]
        if not run.is_active and record.last_outcome(row.operation) == "unknown":
            found.broken.append(f"operation {row.operation}: still unknown, but run {run.id} is {run.status}")
    return found


def true_outcomes(record: Record) -> Finding:
    found = Finding("every outcome is true", len(record.requested))
    counts: Counter[str] = Counter()
    forgiven = 0
    for operation, row in record.requested.items():
        outcome, run = record.last_outcome(operation), record.runs[row.run]
        counts[outcome] += 1
        arrival = next(iter(record.arrivals_of[operation]), None)
        allowed = _allowed(record, operation, run, arrival)
        if outcome and outcome not in allowed:
            found.broken.append(_untrue(record, operation, run, arrival, allowed))
        elif outcome == "confirmed" and (arrival is None or run.ended_by != str(arrival.number)):
            forgiven += 1
    for run_id, rows in record.rows_of_run.items():
        confirmed = {row.operation for row in rows if record.last_outcome(row.operation) == "confirmed"}
        if len(confirmed) > 1:
            found.broken.append(f"run {run_id} has {len(confirmed)} confirmed cancels: {', '.join(sorted(confirmed))}")
    told = [f"{number} {outcome or 'open'}" for outcome, number in counts.most_common()]
    found.note = ", ".join(told) + (f"; {forgiven} confirmed that nobody can tell apart" if forgiven else "")
    return found


def _untrue(record: Record, operation: str, run: TrueRun, arrival: Arrival | None, allowed: set[str]) -> str:
    outcome = record.last_outcome(operation)
    why = f"{outcome}, but run {run.id} is {run.status} by {run.ended_by or 'nobody'}"
    sent = "nothing was sent"
    if arrival is not None:
        sent = f"POST {arrival.number}: {arrival.answer}, {'' if arrival.is_delivered else 'not '}delivered"
    known = _how_it_is_known(record, operation, run, arrival) if outcome == "confirmed" else ""
    known = f", and {known}" if known else ""
    return f"operation {operation}: {why} ({sent}){known}; true: {', '.join(sorted(allowed))}"


def _allowed(record: Record, operation: str, run: TrueRun, arrival: Arrival | None) -> set[str]:
    """Every outcome of this operation that is true, by what Arize knows."""
    ended = {"unknown"} if run.is_active else {ENDED[run.status], "unknown"}
    if arrival is None:
        may_be_sent = operation in record.marked and _may_be_its_own(record, operation, run, None)
        return ended | {"not_sent"} | ({"confirmed"} if may_be_sent else set())
    if not arrival.is_known:
        return _after_a_lost_answer(record, operation, run, arrival, ended)
    told = _after_an_answer(run, arrival, ended)
    if _may_have_forgotten(record, arrival.at, arrival.done):
        return told | _after_a_lost_answer(record, operation, run, arrival, ended)
    return told


def _after_an_answer(run: TrueRun, arrival: Arrival, ended: set[str]) -> set[str]:
    match arrival.answer:
        case Answer.CANCELLED:
            return {"confirmed"}
        case Answer.REFUSED | Answer.LIMITED:
            return {"refused"}
        case Answer.ENDED:
            # Or the panel could not read the run again, and only knows that Arize refused.
            return ended - {"unknown"} | {"refused"}
    return _after_stopping(run, arrival)


def _after_stopping(run: TrueRun, arrival: Arrival) -> set[str]:
    if run.is_active:
        return {"still_running"}
    if run.ended_by in {ITSELF, str(arrival.number)}:
        return {"still_running", ENDED[run.status] if run.ended_by == ITSELF else "confirmed"}
    # Arize accepted it, and somebody else's cancel came first: nothing tells them apart.
    return {"still_running", "confirmed", "already_cancelled"}


def _after_a_lost_answer(record: Record, operation: str, run: TrueRun, arrival: Arrival, ended: set[str]) -> set[str]:
    allowed = ended | ({"refused"} if arrival.answer in {Answer.REFUSED, Answer.LIMITED, Answer.ENDED} else set())
    if arrival.answer is Answer.STOPPING:
        allowed |= {"still_running"}
    return allowed | ({"confirmed"} if _may_be_its_own(record, operation, run, arrival) else set())


def _may_be_its_own(record: Record, operation: str, run: TrueRun, arrival: Arrival | None) -> bool:
    """Whether the panel may take it for the cancel that stopped the run."""
    if run.status != "cancelled":
        return False
    is_own = arrival is not None and run.ended_by == str(arrival.number)
    return is_own or not _how_it_is_known(record, operation, run, arrival)


def _how_it_is_known(record: Record, operation: str, run: TrueRun, arrival: Arrival | None) -> str:
    """How the panel could see that this cancel was not the one that stopped the run. Empty if it could not."""
    rows = record.rows_of[operation]
    if any(row.reread in ACTIVE for row in rows):
        return "its own row says that the run was active after it"
    others = [it for it in record.arrivals if it.run == run.id and it is not arrival]
    told = [it for it in others if it.answer is Answer.CANCELLED and it.is_delivered]
    if any(not _may_have_forgotten(record, it.at, it.done) for it in told):
        return "Arize confirmed another cancel"
    # Before then, as far as the panel knows, the POST may still be on its way.
    sent = arrival.at if arrival is not None else rows[0].at
    over = max(arrival.done if arrival is not None else 0.0, min([sent + SENT_WITHIN, *(it.at for it in rows[1:])]))
    for reading in run.readings:
        is_later = reading.arrived > over + ON_ITS_WAY and reading.status in ACTIVE
        if is_later and not _may_have_forgotten(record, reading.arrived, reading.done):
            return f"Arize showed the run active {reading.arrived - sent:.1f} s after it"
    return ""


def _may_have_forgotten(record: Record, asked: float, told: float) -> bool:
    """Whether the process that was told may have died before it could write it down."""
    return any(asked - 1 <= span.start <= max(asked, told) + FORGETS_WITHIN for span in record.spans_of(*FORGETTING))


def told_truly(record: Record) -> Finding:
    """Each click has one row under its person's name, and its answer shows that row's outcome."""
    found = Finding("each click is recorded under its person, and answered as recorded")
    by_reason: dict[str, list[Row]] = defaultdict(list)
    for row in record.rows:
        if row.outcome in {"requested", "joined", "not_needed"}:
            by_reason[row.reason].append(row)
    for click in record.clicks:
        rows = by_reason[click.reason]
        if click.status in NOT_TOLD and not rows:
            continue  # nothing was done, and the person was told so
        found.tries += 1
        if len(rows) != 1:
            found.broken.append(f"{click.reason}: {len(rows)} rows, answered {click.status}")
        elif click.person not in rows[0].actor or rows[0].run != click.run:
            found.broken.append(f"{click.reason}: its row names {rows[0].actor} and run {rows[0].run}")
        elif (wrong := _answered_wrongly(record, click, rows[0])) is not None:
            found.broken.append(f"{click.reason}: answered {click.status}, but the log says {wrong or 'stopping'}")
    statuses = Counter(click.status for click in record.clicks)
    found.note = ", ".join(f"{number} x {status or 'no answer'}" for status, number in sorted(statuses.items()))
    return found


def _answered_wrongly(record: Record, click: Click, row: Row) -> str | None:
    """The first outcome in the log if the answer contradicts it."""
    if click.status in NOT_TOLD:
        return None
    if row.outcome != "requested":
        return None if click.status in STATUSES[row.outcome] else row.outcome
    mine = [it for it in record.rows_of[row.operation] if it.outcome != "requested"]
    if mine and mine[0].actor_type != "user":
        return None  # the panel found it later
    if click.is_queued:
        return None if click.status == 200 else "queued"
    first = mine[0].outcome if mine else ""
    return None if click.status in STATUSES[first] else first


def held(record: Record) -> Finding:
    runs = [run for run in record.runs.values() if run.team in record.held_since and run.takes_cancels]
    found = Finding("an emergency stop cancels every active run", len(runs))
    waits = []
    for run in runs:
        if run.is_active:
            tried = sum(arrival.run == run.id for arrival in record.arrivals)
            found.broken.append(f"run {run.id} is still {run.status} after {tried} cancels")
        elif run.ended_by not in {ITSELF, OUTSIDE}:
            waits.append(run.ended_at - max(run.born, record.held_since[run.team]))
    found.note = f"run to cancel: {_quantiles(waits)}"
    return found


def rate_limit(record: Record) -> Finding:
    found = Finding(f"at most {record.calls_per_minute} calls a minute and key")
    by_key: dict[str, list[float]] = defaultdict(list)
    allowance = _rereads_allowed(record)
    for call in sorted(record.calls, key=lambda call: call.at):
        if not _is_reread(call.run, call.at, allowance):
            by_key[call.key].append(call.at)
    most = 0
    for key, times in by_key.items():
        start, worst, worst_at = 0, 0, 0.0
        for end, at in enumerate(times):
            while times[start] <= at - WINDOW:
                start += 1
            found.tries += 1
            if end - start + 1 > worst:
                worst, worst_at = end - start + 1, at
        most = max(most, worst)
        if worst > record.calls_per_minute:
            since = worst_at - min(run.born for run in record.runs.values())
            found.broken.append(f"key {key}: {worst} calls in the minute that ended {since:.0f} s after the start")
    found.note = f"at most {most} seen"
    return found


def _rereads_allowed(record: Record) -> dict[str, list[tuple[float, int]]]:
    """Run -> (when its cancel arrived, how many readings after it are outside the limit)."""
    allowed: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for arrival in record.arrivals:
        needs = not arrival.is_known or arrival.answer is Answer.ENDED
        rows = record.rows_of[arrival.operation]
        if needs:
            allowed[arrival.run].append((arrival.at, READINGS_IN_A_BATCH if any(row.batch for row in rows) else 1))
    return allowed


def _is_reread(run: str, at: float, allowance: dict[str, list[tuple[float, int]]]) -> bool:
    """Whether this reads a run after its cancel. Uses up the allowance."""
    for number, (since, left) in enumerate(allowance.get(run, ())):
        if since <= at <= since + RULES_LAST and left:
            allowance[run][number] = (since, left - 1)
            return True
    return False


def chains(record: Record) -> Finding:
    broken = [] if record.chains_are_clean else [record.chain_report]
    return Finding("the audit log verifies", 1, broken, note=f"{len(record.rows)} rows about cancels")


def boards(record: Record) -> Finding:
    found = Finding("afterwards the boards show what Arize holds", len(record.runs))
    for run in record.runs.values():
        shown = record.boards.get(run.team, {}).get(run.id)
        if shown != run.status:
            found.broken.append(f"run {run.id} of key {run.key} is {run.status}, its board shows {shown or 'nothing'}")
    return found


def searched(record: Record) -> Finding:
    claims = [poll for poll in record.polls if poll.searched_at is not None]
    found = Finding("a board claims no search that did not happen", len(claims))
    for poll in claims:
        if poll.missing:
            found.broken.append(f"board of {poll.team}: claims {poll.searched_at}, lacks {', '.join(poll.missing[:3])}")
    found.note = "" if claims else "no board claims one"
    return found


def pace(record: Record) -> Finding:
    """Silences of healthy keys, from one call to the next, while others hang. Not after a worker was killed."""
    found = Finding("healthy keys are read while others hang")
    kills = record.spans_of(Kind.KILL_WORKER, Kind.JUMP, Kind.KILL_REDIS, "ended")
    spans = {(round(span.start), round(span.end)) for span in record.spans_of(Kind.HANG)}
    silences = []
    for key in sorted(record.healthy_keys):
        times = sorted(call.at for call in record.calls if call.key == key)
        for start, end in sorted(spans):
            inside = [start, *(at for at in times if start < at < end), end]
            for before, after in pairwise(inside):
                if any(before - CLAIM_LASTS <= kill.start <= after for kill in kills):
                    continue
                silences.append(after - before)
                if after - before > LONGEST_SILENCE:
                    found.broken.append(f"key {key}: silent for {after - before:.1f} s while others hung")
    found.tries = len(silences)
    found.note = f"longest silence {max(silences):.1f} s" if silences else "not tried: a worker was killed"
    return found


def told_once(record: Record) -> Finding:
    """Each end once, or once more with a mark. The receiver answers some messages with an error or not at all."""
    found = Finding("a channel is told of every failed and cancelled run once", len(record.to_tell))
    number = Counter(message.run for message in record.messages)
    marked = Counter(message.run for message in record.messages if message.is_marked)
    for run in sorted(record.to_tell | number.keys()):
        if not number[run]:
            found.broken.append(f"run {run}: no message")
        elif run not in record.to_tell:
            found.broken.append(f"run {run}: a message, but it neither failed nor was cancelled")
        elif number[run] - 1 > marked[run]:
            found.broken.append(f"run {run}: {number[run]} messages, {marked[run]} of them marked")
    found.note = f"{sum(number.values()) - len(number)} repeated"
    return found


PROMISES: tuple[Callable[[Record], Finding], ...] = (
    *(row_first, one_post, every_end, unknown_is_found, true_outcomes, told_truly),
    *(held, rate_limit, chains, boards, searched, pace, told_once),
)


def judge(record: Record) -> list[Finding]:
    return [promise(record) for promise in PROMISES]


def table(findings: list[Finding], *, most: int = 12) -> Iterator[str]:
    """The lines of the table, then what broke each promise."""
    yield f"{'promise':<70} {'tries':>7} {'broken':>7}  note"
    for found in findings:
        yield f"{found.promise:<70} {found.tries:>7} {len(found.broken):>7}  {found.note}"
    for found in findings:
        if found.broken:
            yield f"\nBROKEN: {found.promise}"
            yield from (f"  {sentence}" for sentence in found.broken[:most])
            if len(found.broken) > most:
                yield f"  ... and {len(found.broken) - most} more"


def _of(arrival: Arrival) -> str:
    return f"POST {arrival.number} for run {arrival.run}"


def _quantiles(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    return f"median {ordered[len(ordered) // 2]:.1f} s, p95 {ordered[int(len(ordered) * 0.95)]:.1f} s"
