"""Timing and the table."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")


@dataclass(frozen=True)
class Figure:
    """`value` and `reference` are in `unit`. The reference was measured in the same run."""

    what: str
    value: float
    unit: str
    reference: float
    reference_is: str
    limit: str = ""


def median_ms(act: Callable[[int], object], times: Iterable[int]) -> float:
    spans = []
    for number in times:
        begin = time.perf_counter()
        act(number)
        spans.append(time.perf_counter() - begin)
    return 1000 * statistics.median(spans)


def medians_ms(acts: Mapping[K, Callable[[int], object]], times: Iterable[int]) -> dict[K, float]:
    """The median of each, taken in turns, so that a busy moment of the machine meets all alike."""
    spans: dict[K, list[float]] = {key: [] for key in acts}
    for number in times:
        for key, act in acts.items():
            begin = time.perf_counter()
            act(number)
            spans[key].append(time.perf_counter() - begin)
    return {key: 1000 * statistics.median(each) for key, each in spans.items()}


def per_second(act: Callable[[int], object], count: int) -> float:
    begin = time.perf_counter()
    for number in range(count):
        act(number)
    return count / (time.perf_counter() - begin)


def show(figures: list[Figure], *, title: str) -> None:
    print(title)  # noqa: T201 - the table is what this command is for
    print(f"{'measured':<52} {'value':>10} {'reference':>10} {'ratio':>7}  {'limit':<12} reference is")  # noqa: T201
    for figure in figures:
        ratio = figure.value / figure.reference if figure.reference else float("nan")
        print(  # noqa: T201
            f"{figure.what:<52} {figure.value:>7.1f} {figure.unit:<3}{figure.reference:>9.1f} "
            f"{ratio:>7.2f}  {figure.limit:<12} {figure.reference_is}"
        )
