"""One simulated Arize from a request to its answer: log it, let a fault meet it, do the work."""

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from taskruns.sandbox.access import build_access
from taskruns.sandbox.api import Api
from taskruns.sandbox.clock import Clock
from taskruns.sandbox.controls import Controls
from taskruns.sandbox.faults import Fault, Faults
from taskruns.sandbox.messages import Answer, Request, problem_answer
from taskruns.sandbox.problems import Problem
from taskruns.sandbox.received import Entry, Received
from taskruns.sandbox.runs import AT_ONCE, CancelEffect
from taskruns.sandbox.wire import Spelling, Wire
from taskruns.sandbox.world import World


class Hangup(Exception):
    """The connection is to be closed without an answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`keys`: key -> names or ids of the spaces it sees, none meaning all. `epoch`: start of the world, UTC."""

    keys: Mapping[str, Sequence[str]]
    wire: Wire = Wire.UPPER
    seed: int = 1
    tasks: int = 40
    speed: float = 1.0
    busy: int = 0
    epoch: datetime | None = None


class Simulation:
    """Everything behind the sockets. A reset replaces all; requests under way end on what they began with."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.closing = threading.Event()
        self._fill()

    def _fill(self) -> None:
        settings = self._settings
        clock = Clock(speed=settings.speed, epoch=settings.epoch)
        world = World(seed=settings.seed, tasks=settings.tasks, clock=clock, busy=settings.busy)
        spelling = Spelling(settings.wire, clock=clock)
        received = Received(keys=settings.keys.keys())
        faults = Faults(seed=settings.seed)
        self._desk = _Desk(
            api=Api(world=world, access=build_access(settings.keys), spelling=spelling, clock=clock),
            controls=Controls(world=world, clock=clock, faults=faults, received=received, reset=self._fill),
            faults=faults,
            received=received,
            closing=self.closing,
        )

    def answer(self, request: Request) -> Answer:
        """Raises Hangup."""
        return self._desk.answer(request)


@dataclass(frozen=True, slots=True)
class _Desk:
    api: Api
    controls: Controls
    faults: Faults
    received: Received
    closing: threading.Event

    def answer(self, request: Request) -> Answer:
        if request.segments[0] == "sandbox":
            return _worked(lambda: self.controls.answer(request), request, request_id="req_sandbox")
        entry = self.received.open(request)
        try:
            answer = self._faulty_or_worked(request, entry)
        except Hangup:
            entry.close(status=None)
            raise
        entry.close(status=answer.status)
        return answer

    def _faulty_or_worked(self, request: Request, entry: Entry) -> Answer:
        drawn = self.faults.draw(request)
        if drawn is None:
            return self._worked(request, entry, cancel=AT_ONCE)
        entry.fault, fault = drawn
        self._hold_up(fault, "before")
        worked = None if fault.forestalls_work else self._worked(request, entry, cancel=fault.cancel or AT_ONCE)
        self._hold_up(fault, "after")
        return fault.answer(request, worked, request_id=entry.request_id)

    def _worked(self, request: Request, entry: Entry, *, cancel: CancelEffect) -> Answer:
        return _worked(lambda: self._route(request, cancel), request, request_id=entry.request_id)

    def _route(self, request: Request, cancel: CancelEffect) -> Answer:
        if request.segments[0] != "v2":
            raise Problem(404, "There is no such route.")
        return self.api.answer(request, cancel=cancel)

    def _hold_up(self, fault: Fault, moment: str) -> None:
        """Waits as the fault says, or until the server closes. Raises Hangup for a line that is then to be closed."""
        if self.closing.wait(fault.delay_ms(moment) / 1000) or moment in {fault.cut, fault.hang}:
            raise Hangup


def _worked(work: Callable[[], Answer], request: Request, *, request_id: str) -> Answer:
    try:
        return work()
    except Problem as problem:
        return problem_answer(problem, instance=request.path, request_id=request_id)
    except Exception:  # noqa: BLE001 - a bug of ours must reach the client as a 500 and the terminal as a traceback
        traceback.print_exc()
        failure = Problem(500, "The sandbox failed; its terminal tells why.")
        return problem_answer(failure, instance=request.path, request_id=request_id)
