from __future__ import annotations

from rkeyserver.clock import Clock, utc


def test_time_never_goes_back_with_the_host() -> None:
    times = iter([100.0, 50.0, 120.9])
    clock = Clock(host=lambda: next(times))
    assert [clock.now(), clock.now(), clock.now()] == [100, 100, 120]


def test_utc_is_readable() -> None:
    assert utc(1_751_624_924) == "2025-07-04T10:28:44Z"


def test_utc_beyond_the_calendar() -> None:
    assert utc(10**15) == "second 1000000000000000"
