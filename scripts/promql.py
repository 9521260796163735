"""PromQL about the server's own metrics, written with the metric objects themselves.

A name that does not exist is not importable, and a label that the metric does not have raises here, when the
dashboards are written, instead of showing an empty panel to whoever is woken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from rtc_server.metrics import LABELS, OF_PROCESS

WINDOW = "$__rate_interval"
SELECTED = 'instance=~"$instance"'
"""The servers that the dashboard's reader has chosen."""

Where = Mapping[str, str]


def rate(counter: Counter, by: Sequence[str] = (), where: Where | None = None) -> str:
    """Per second, added up over everything but `by`."""
    return f"{_sum(counter, by)}(rate({_selector(counter, '_total', where)}[{WINDOW}]))"


def observations(histogram: Histogram, by: Sequence[str] = (), where: Where | None = None) -> str:
    """Observations per second."""
    return f"{_sum(histogram, by)}(rate({_selector(histogram, '_count', where)}[{WINDOW}]))"


def value(gauge: Gauge, by: Sequence[str] = (), where: Where | None = None) -> str:
    """As it stands, added up over everything but `by`."""
    return f"{_sum(gauge, by)}({_selector(gauge, '', where)})"


def quantile(share: float, histogram: Histogram, by: Sequence[str] = (), where: Where | None = None) -> str:
    """The value that `share` of the observations do not exceed, interpolated between the buckets."""
    return f"histogram_quantile({share}, {buckets(histogram, by, where)})"


def buckets(histogram: Histogram, by: Sequence[str] = (), where: Where | None = None) -> str:
    """Observations per second in each bucket, as a heat map takes them."""
    return f"{_sum(histogram, ('le', *by))}(rate({_selector(histogram, '_bucket', where)}[{WINDOW}]))"


def share_above(bound: float, histogram: Histogram) -> str:
    """Share of the observations above `bound`. Raises ValueError unless it is an edge of a bucket."""
    if bound not in histogram._upper_bounds:
        raise ValueError(f"{histogram._name} has no bucket that ends at {bound}; it has {histogram._upper_bounds}")
    within = f"sum(rate({_selector(histogram, '_bucket', {'le': str(float(bound))})}[{WINDOW}]))"
    return f"1 - {within} / {observations(histogram)}"


def names_of(metric: MetricWrapperBase) -> dict[str, frozenset[str]]:
    """Sample name -> the labels that it has, of everything that the metric exposes."""
    name, labels = metric._name, {*metric._labelnames, "instance", "job"}
    if name in OF_PROCESS:
        labels.add("process")
    if isinstance(metric, Counter):
        return {f"{name}_total": frozenset(labels)}
    if isinstance(metric, Histogram):
        plain = frozenset(labels)
        return {f"{name}_bucket": plain | {"le"}, f"{name}_sum": plain, f"{name}_count": plain}
    return {name: frozenset(labels)}


def _sum(metric: MetricWrapperBase, by: Sequence[str]) -> str:
    known = frozenset().union(*names_of(metric).values())
    for label in by:
        if label not in known:
            raise ValueError(f"{metric._name} has no label '{label}'; it has {', '.join(sorted(known))}")
    return f"sum by ({', '.join(by)})" if by else "sum"


def _selector(metric: MetricWrapperBase, suffix: str, where: Where | None) -> str:
    name = f"{metric._name}{suffix}"
    known = names_of(metric)[name]
    matchers = [SELECTED]
    for label, wanted in (where or {}).items():
        if label not in known:
            raise ValueError(f"{name} has no label '{label}'; it has {', '.join(sorted(known))}")
        if label in LABELS and wanted not in LABELS[label]:
            raise ValueError(f"'{wanted}' is no {label} of {name}; there are {', '.join(sorted(LABELS[label]))}")
        matchers.append(f'{label}="{wanted}"')
    return f"{name}{{{', '.join(matchers)}}}"
