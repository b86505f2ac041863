"""How often one caller may ask."""

from __future__ import annotations

import pytest

from rkeyserver.errors import Unavailable
from rkeyserver.service.rates import MAX_KNOWN, Rates


def taken(rates: Rates, who: str, most: int = 1000) -> int:
    """How many requests of `who` are let through now."""
    for number in range(most):
        try:
            rates.take(who)
        except Unavailable:
            return number
    return most


def test_a_burst_and_then_so_many_a_second_for_each_by_himself() -> None:
    now = [0.0]
    rates = Rates(per_second=10, burst=20, now=lambda: now[0])
    assert taken(rates, "a") == 20
    assert taken(rates, "b") == 20
    now[0] = 0.5
    assert taken(rates, "a") == 5
    now[0] = 1000
    assert taken(rates, "a") == 20


def test_whoever_asks_too_often_loses_nothing_by_that() -> None:
    now = [0.0]
    rates = Rates(per_second=1, burst=1, now=lambda: now[0])
    rates.take("a")
    for eighth in range(1, 8):
        now[0] = eighth / 8
        with pytest.raises(Unavailable) as raised:
            rates.take("a")
        assert raised.value.retry_after == 1
    now[0] = 1
    rates.take("a")


def test_it_remembers_so_many() -> None:
    rates = Rates(per_second=1, burst=1, now=lambda: 0.0)
    for number in range(MAX_KNOWN + 10):
        rates.take(str(number))
    assert len(rates._left) == MAX_KNOWN
    with pytest.raises(Unavailable):
        rates.take(str(MAX_KNOWN + 9))
    rates.take("0")
