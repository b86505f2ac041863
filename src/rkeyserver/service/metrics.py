"""`/metrics`: what `status` and `/readyz` say, in numbers (docs/operations/metrics.md). Imported on the first request.

Names and units are as Prometheus's own rules have them: base units, `_total` for what only grows, and a time is the
time itself, from which whoever reads takes the difference. Nothing secret is in any label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from rkeyserver.keyring.generations import GenerationState
from rkeyserver.service.instance import Instance, Role
from rkeyserver.service.latency import BOUNDS, Latency
from rkeyserver.service.ready import looked
from rkeyserver.service.routes import DERIVE_PATH, HAND_OVER_PATH, REWRAP_PATH, UNWRAP_PATH, WRAP_PATH

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ACTIONS: Final = {"derive": DERIVE_PATH, "wrap": WRAP_PATH, "unwrap": UNWRAP_PATH, "rewrap": REWRAP_PATH}
Status = dict[str, Any]


class _Collector:
    """A collector over one instance, as it is now."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def collect(self) -> Iterator[Metric]:
        instance = self._instance
        # First, for what they find may change what the status says.
        checks = looked(instance)
        yield _each(
            "check_good",
            "Whether a check of /readyz finds nothing wrong.",
            "check",
            {name: one.good for name, one in checks.items()},
        )
        found = instance.status()
        for family in _FAMILIES:
            yield from family(found)
        yield from _hand_overs(instance)
        yield from _callers(instance)


def _state(found: Status) -> Iterator[Metric]:
    yield _labelled(
        "build_info",
        "The program's version and platform.",
        {"version": found["version"], "platform": found["platform"]},
        1,
    )
    yield _gauge("start_time_seconds", "When the instance was started.", _time(found["started"]))
    yield _gauge("serving", "Whether a keyring is held.", found["domain"] is not None)
    yield _each("role", "1 for the role that it has.", "role", {str(one): found["role"] == one for one in Role})
    if found["domain"] is not None:
        yield _gauge("epoch", "Epoch of the keyring that is served.", found["epoch"])
        yield _gauge("sequence", "Sequence of the keyring that is served.", found["sequence"])
    states = [one["state"] for one in found["generations"]]
    yield _each(
        "generations",
        "Generations of the root key, by state.",
        "state",
        {str(one): states.count(one) for one in GenerationState},
    )
    yield _gauge("key_memory_hidden", "Whether kernel or processor hide the key from root.", found["key_memory_hidden"])


def _peers(found: Status) -> Iterator[Metric]:
    yield _gauge("peers", "Machines that hold the keyring, as far as this instance knows.", len(found["peers"]))
    yield _each(
        "peer_last_seen_timestamp_seconds",
        "When a machine was last given the keyring, or gave it.",
        "machine",
        {machine: _time(at) for machine, at in found["peers"].items()},
    )


def _members(found: Status) -> Iterator[Metric]:
    behind = GaugeMetricFamily(
        "rkeyserver_member_states_behind",
        "By how many states of the keyring a member is behind this one, by what it has acknowledged.",
        labels=["member", "machine"],
    )
    seen = GaugeMetricFamily(
        "rkeyserver_member_seen_timestamp_seconds", "When a member was last heard of.", labels=["member", "machine"]
    )
    for one in found["members"]:
        labels = [one["member"], one["machine"]]
        lag = 0 if one["acknowledged"] else max(1, (found["sequence"] or 0) - one["sequence"])
        behind.add_metric(labels, lag)
        seen.add_metric(labels, _time(one["seen"]))
    yield behind
    yield seen


def _record(found: Status) -> Iterator[Metric]:
    yield _gauge("ways_back", "What could give the key back. At one, act.", found["ways_back_total"])
    yield _gauge("record_readable", "Whether the record can be read.", not found["record_problem"])
    drill = found["drill"]
    if drill is not None:
        yield _gauge(
            "drill_last_success_timestamp_seconds",
            "When a takeover drill passed last; 0 for not yet.",
            _time(drill["last_success"]),
        )
        yield _gauge("drill_failing", "Whether the last takeover drill failed.", drill["passed"] is False)


def _refused(found: Status) -> Iterator[Metric]:
    refused = _counter("refused", "Requests refused since the start, of any kind.", labels=["reason"])
    for reason, count in sorted(found["refused"].items()):
        refused.add_metric([reason], count)
    yield refused


def _released(found: Status) -> Iterator[Metric]:
    yield _count("releases", "Requests of enclaves for derived keys that got them.", found["released"])
    if (provision := found["provision"]) is not None:
        yield _gauge("provision_listening", "Whether keys are given to applications.", bool(provision["listening"]))
        yield _count("provisioned", "Keys given to applications since the start.", provision["given"])
    if (callers := found["callers"]) is not None:
        yield _gauge("callers_listening", "Whether callers with a token are answered.", bool(callers["listening"]))


def _collateral(status: Status) -> Iterator[Metric]:
    found = status["collateral"]
    expiry = GaugeMetricFamily(
        "rkeyserver_collateral_expiry_timestamp_seconds",
        "When collateral expires. own: whether it is this machine's.",
        labels=["fmspc", "ca", "own"],
    )
    for one in found["held"]:
        expiry.add_metric([one["fmspc"], one["ca"], str(one["own"]).lower()], _time(one["expires"]))
    yield expiry
    if found["pccs"]:
        yield _gauge(
            "collateral_last_success_timestamp_seconds",
            "When the PCCS last gave collateral; 0 for not yet.",
            _time(found["last_success"]),
        )
        yield _gauge("collateral_refresh_failing", "Whether the last fetch failed.", bool(found["last_error"]))


_FAMILIES: Final[tuple[Callable[[Status], Iterator[Metric]], ...]] = (
    *(_state, _peers, _members, _record, _refused, _released, _collateral),
)


def _hand_overs(instance: Instance) -> Iterator[Metric]:
    asked = _counter(
        "hand_overs",
        "Hand-overs that were asked for, by verdict and, where refused, reason.",
        labels=["verdict", "reason"],
    )
    for verdict, reason in sorted({("accepted", ""), *instance.decided}):
        asked.add_metric([verdict, reason], instance.decided[verdict, reason])
    yield asked
    yield _histogram(
        "hand_over_duration_seconds",
        "From a request for the keyring to its answer.",
        {"": instance.latency[HAND_OVER_PATH]},
    )
    if instance.drill is not None:
        drills = _counter("drills", "Takeover drills since the start, by outcome.", labels=["outcome"])
        drills.add_metric(["passed"], instance.drill.passed)
        drills.add_metric(["failed"], instance.drill.failed)
        yield drills


def _callers(instance: Instance) -> Iterator[Metric]:
    yield _histogram(
        "caller_request_duration_seconds",
        "From a caller's request to its answer, whatever that was.",
        {name: instance.latency[path] for name, path in _ACTIONS.items()},
        "action",
    )


def _time(text: str | None) -> float:
    return 0.0 if text is None else datetime.fromisoformat(text).timestamp()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rkeyserver_{name}", text, value=float(value))


def _labelled(name: str, text: str, labels: Mapping[str, str], value: float) -> GaugeMetricFamily:
    made = GaugeMetricFamily(f"rkeyserver_{name}", text, labels=list(labels))
    made.add_metric(list(labels.values()), value)
    return made


def _each(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(f"rkeyserver_{name}", text, labels=[label])
    for one, value in values.items():
        made.add_metric([one], float(value))
    return made


def _counter(name: str, text: str, labels: list[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"rkeyserver_{name}", text, labels=labels)


def _count(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"rkeyserver_{name}", text, value=value)


def _histogram(name: str, text: str, of: Mapping[str, Latency], label: str = "") -> HistogramMetricFamily:
    made = HistogramMetricFamily(f"rkeyserver_{name}", text, labels=[label] if label else [])
    bounds = [*map(str, BOUNDS), "+Inf"]
    for one, latency in of.items():
        counts = list(accumulate(latency.counts))
        made.add_metric([one] if label else [], buckets=list(zip(bounds, counts, strict=True)), sum_value=latency.total)
    return made


def exposition(instance: Instance) -> bytes:
    """The text of one scrape.

    Raises: RkeyError as Instance.status().
    """
    registry = CollectorRegistry(auto_describe=False)
    collector: Any = _Collector(instance)
    registry.register(collector)
    return generate_latest(registry)
