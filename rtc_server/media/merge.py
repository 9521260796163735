"""One page of metrics from several processes: counters, histograms and calls add up, what describes a process stays its
own. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def merge(pages: Sequence[tuple[str, bytes]], of_process: Collection[str]) -> list[Metric]:
    """Families of all (process name, page) pairs: samples of the same name and labels are added, those in
    `of_process` get a `process` label instead; a page that was merged already has some, which become "page-process".
    Raises ValueError for a page that is not Prometheus text."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for process, page in pages:
        for family in text_string_to_metric_families(page.decode()):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            totals = values.setdefault(merged.name, {})
            for sample in family.samples:
                labels = dict(sample.labels)
                if family.name in of_process:
                    labels["process"] = f"{process}-{labels['process']}" if "process" in labels else process
                elif sample.name.endswith("_created"):
                    continue  # the start time of a counter: of no use in a sum
                key = (sample.name, tuple(labels.items()))
                totals[key] = totals.get(key, 0.0) + sample.value
    for name, family in families.items():
        family.samples = [Sample(n, dict(labels), value, None, None) for (n, labels), value in values[name].items()]
    return list(families.values())


class Merged:
    """A Prometheus collector over merged families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families
