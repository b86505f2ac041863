from __future__ import annotations

from rkeyserver.clock import Clock, utc


def test_time_never_goes_back_with_the_host() -> None:
    times = iter([100.0, 50.0, 120.9])
    clock = Clock(host=lambda: next(times))
    assert [clock.now(), clock.now(), clock.now()] == [100, 100, 120]


def test_a_verified_issue_date_is_a_floor() -> None:
    clock = Clock(host=lambda: 100.0)
    clock.observe(5_000)
    assert clock.now() == 5_000
    clock.observe(4_000)
    assert clock.now() == 5_000


def test_utc_is_readable() -> None:
    assert utc(1_751_624_924) == "2025-07-04T10:28:44Z"
