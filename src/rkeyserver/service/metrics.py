"""`/metrics`: what `status` says, in numbers, for Prometheus. Imported on the first request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _Status:
    """A collector over one status."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        found = self._status
        yield _gauge("serving", "Whether a keyring is held.", found["domain"] is not None)
        yield _gauge("peers", "Machines that hold the keyring, as far as this instance knows.", len(found["peers"]))
        yield _gauge("ways_back", "What could give the key back. At one, act.", found["ways_back_total"])
        yield _gauge(
            "key_memory_hidden", "Whether kernel or processor hide the key from root.", found["key_memory_hidden"]
        )
        yield _gauge("record_readable", "Whether the record can be read.", not found["record_problem"])
        handed = CounterMetricFamily("rkeyserver_hand_overs", "Keyrings handed over since the start.")
        handed.add_metric([], found["hand_overs"])
        yield handed
        released = CounterMetricFamily("rkeyserver_releases", "Requests of enclaves for derived keys that got them.")
        released.add_metric([], found["released"])
        yield released
        refused = CounterMetricFamily("rkeyserver_refused", "Requests refused since the start.", labels=["reason"])
        for reason, count in sorted(found["refused"].items()):
            refused.add_metric([reason], count)
        yield refused
        if (provision := found["provision"]) is not None:
            yield _gauge("provision_listening", "Whether keys are given to applications.", bool(provision["listening"]))
            given = CounterMetricFamily("rkeyserver_provisioned", "Keys given to applications since the start.")
            given.add_metric([], provision["given"])
            yield given
        if (callers := found["callers"]) is not None:
            yield _gauge("callers_listening", "Whether callers with a token are answered.", bool(callers["listening"]))
        yield from _collateral(found["collateral"])


def _collateral(found: dict[str, Any]) -> Iterator[Metric]:
    left = GaugeMetricFamily(
        "rkeyserver_collateral_days_left",
        "Days until collateral expires; negative after it did. own: whether it is this machine's.",
        labels=["fmspc", "ca", "own"],
    )
    for one in found["held"]:
        left.add_metric([one["fmspc"], one["ca"], str(one["own"]).lower()], one["days_left"])
    yield left
    if found["pccs"]:
        at = found["last_success"]
        seconds = 0.0 if at is None else datetime.fromisoformat(at).timestamp()
        yield _gauge(
            "collateral_last_success_timestamp_seconds", "When the PCCS last gave collateral; 0 for not yet.", seconds
        )
        yield _gauge("collateral_refresh_failing", "Whether the last fetch failed.", bool(found["last_error"]))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rkeyserver_{name}", text, value=float(value))


def exposition(status: dict[str, Any]) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    collector: Any = _Status(status)
    registry.register(collector)
    return generate_latest(registry)
