"""Timing and the table."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`value` and `yardstick` in `unit`. The yardstick is the reference value, measured in the same run."""

    what: str
    value: float
    unit: str
    yardstick: float
    yardstick_is: str
    limit: str = ""


def median_ms(act: Callable[[int], object], times: Iterable[int]) -> float:
    spans = []
    for number in times:
        begin = time.perf_counter()
        act(number)
        spans.append(time.perf_counter() - begin)
    return 1000 * statistics.median(spans)


def per_second(act: Callable[[int], object], count: int) -> float:
    begin = time.perf_counter()
    for number in range(count):
        act(number)
    return count / (time.perf_counter() - begin)


def show(figures: list[Figure], *, title: str) -> None:
    print(title)  # noqa: T201 - the table is what this command is for
    print(f"{'measured':<52} {'value':>10} {'yardstick':>10} {'ratio':>7}  {'limit':<12} yardstick is")  # noqa: T201
    for figure in figures:
        ratio = figure.value / figure.yardstick if figure.yardstick else float("nan")
        print(  # noqa: T201
            f"{figure.what:<52} {figure.value:>7.1f} {figure.unit:<3}{figure.yardstick:>9.1f} "
            f"{ratio:>7.2f}  {figure.limit:<12} {figure.yardstick_is}"
        )
