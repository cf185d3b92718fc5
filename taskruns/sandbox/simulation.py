"""One simulated Arize from a request to its answer: log it, apply a fault, do the work."""

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from .api import Api
from .controls import Controls
from .failures import Fault, Faults
from .keys import Keys
from .messages import Answer, Problem, Request, problem_answer
from .request_log import LoggedRequest, RequestLog
from .runs import AT_ONCE, CancelEffect
from .wire import Wire, WireForm
from .world import Clock, World


class HangUp(Exception):
    """Close the connection without an answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`keys`: key -> names or ids of the spaces it sees; empty means all. `epoch`: start of the world, UTC."""

    keys: Mapping[str, Sequence[str]]
    wire: Wire = Wire.UPPER
    seed: int = 1
    tasks: int = 40
    speed: float = 1.0
    busy: int = 0
    epoch: datetime | None = None


class Simulation:
    """Everything behind the sockets. A reset replaces all of it; requests in progress still use the old state."""

    def __init__(self, settings: Settings) -> None:
        """Raises UnreadableKeys."""
        self._settings = settings
        self.closing = threading.Event()
        self._start()

    def _start(self) -> None:
        settings = self._settings
        clock = Clock(speed=settings.speed, epoch=settings.epoch)
        world = World(seed=settings.seed, tasks=settings.tasks, clock=clock, busy=settings.busy)
        requests, faults = RequestLog(keys=settings.keys.keys()), Faults(seed=settings.seed)
        spelling = WireForm(settings.wire, clock=clock)
        self._session = _Session(
            api=Api(world=world, keys=Keys(settings.keys), spelling=spelling, clock=clock),
            controls=Controls(world=world, clock=clock, faults=faults, requests=requests, reset=self._start),
            faults=faults,
            requests=requests,
            closing=self.closing,
        )

    def answer(self, request: Request) -> Answer:
        """Raises HangUp."""
        return self._session.answer(request)


@dataclass(frozen=True, slots=True)
class _Session:
    """The state between two resets."""

    api: Api
    controls: Controls
    faults: Faults
    requests: RequestLog
    closing: threading.Event

    def answer(self, request: Request) -> Answer:
        if request.segments[0] == "sandbox":
            return _answered(lambda: self.controls.answer(request), request, request_id="req_sandbox")
        logged = self.requests.open(request)
        try:
            answer = self._with_fault(request, logged)
        except HangUp:
            logged.close(status=None)
            raise
        logged.close(status=answer.status)
        return answer

    def _with_fault(self, request: Request, logged: LoggedRequest) -> Answer:
        picked = self.faults.pick(request)
        if picked is None:
            return self._real(request, logged, cancel=AT_ONCE)
        logged.fault, fault = picked
        self._interrupt(fault, "before")
        real = None if fault.prevents_work else self._real(request, logged, cancel=fault.cancel or AT_ONCE)
        self._interrupt(fault, "after")
        return fault.answer(request, real, request_id=logged.request_id)

    def _interrupt(self, fault: Fault, moment: str) -> None:
        """Wait for the fault's delay, or until the server stops. Raises HangUp if the connection must end here."""
        if self.closing.wait(fault.delay_ms(moment) / 1000) or moment in {fault.cut, fault.hang}:
            raise HangUp

    def _real(self, request: Request, logged: LoggedRequest, *, cancel: CancelEffect) -> Answer:
        return _answered(lambda: self._route(request, cancel), request, request_id=logged.request_id)

    def _route(self, request: Request, cancel: CancelEffect) -> Answer:
        if request.segments[0] != "v2":
            raise Problem(404, "There is no such route.")
        return self.api.answer(request, cancel=cancel)


def _answered(work: Callable[[], Answer], request: Request, *, request_id: str) -> Answer:
    try:
        return work()
    except Problem as problem:
        return problem_answer(problem, instance=request.path, request_id=request_id)
    except Exception:  # noqa: BLE001 - a bug of ours must reach the client as a 500 and the terminal as a traceback
        traceback.print_exc()
        failure = Problem(500, "The sandbox failed. See its terminal for the traceback.")
        return problem_answer(failure, instance=request.path, request_id=request_id)
