"""The kinds of panels that the Grafana dashboards are made of (`scripts.dashboards`), all in one look."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from prometheus_client import Histogram

from rtc_server import metrics as m
from rtc_server.app.status import TARGETS_MS
from scripts.promql import quantile

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
TALL, LOW = 8, 4
HALF, THIRD, SIXTH = 12, 8, 4

Queries = Mapping[str, str]
"""Legend -> expression. A legend may name labels: `{{stage}}`."""


def graph(
    title: str,
    about: str,
    unit: str,
    queries: Queries,
    *,
    target: float | None = None,
    width: int = HALF,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time, with the target as a dashed one."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .min(0)
        .height(TALL)
        .span(width)
        .datasource(SOURCE)
        .line_width(1.5)
        .fill_opacity(8)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if most is not None:
        panel = panel.max(most)
    if target is not None:
        panel = panel.thresholds(steps((None, "green"), (target, "orange"))).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        )
    for number, (legend, expression) in enumerate(queries.items()):
        panel = panel.with_target(query(number, legend, expression))
    return panel


def figure(title: str, about: str, unit: str, expression: str, *bounds: tuple[float | None, str]) -> stat.Panel:
    """One number, coloured by the bound that it has passed."""
    panel = stat.Panel().title(title).description(about).unit(unit).height(LOW).span(SIXTH).datasource(SOURCE)
    if bounds:
        panel = panel.thresholds(steps(*bounds))
    return panel.with_target(query(0, title, expression))


def heat(title: str, about: str, expression: str) -> heatmap.Panel:
    """A histogram over time: how many observations fell into each bucket."""
    panel = heatmap.Panel().title(title).description(about).height(TALL).span(HALF).datasource(SOURCE)
    panel = panel.y_axis(heatmap.YAxisConfig().unit("s")).calculate(False)
    return panel.with_target(query(0, "{{le}}", expression).format(PromQueryFormat.HEATMAP))


def steps(*bounds: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours from each bound on; the first bound is None, which is everything below the second."""
    found = [Threshold(value=bound, color=colour) for bound, colour in bounds]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def query(number: int, legend: str, expression: str) -> prometheus.Dataquery:
    """One target of a panel."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))


def empty(uid: str, title: str, about: str) -> dashboard.Dashboard:
    """A dashboard whose reader chooses the Prometheus and the servers."""
    instances = (
        dashboard.QueryVariable("instance")
        .label("Server")
        .datasource(SOURCE)
        .query(f"label_values({m.CALLS._name}, instance)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["rtc-server"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)  # one crosshair over all panels
        .readonly()  # it is written by a script; changes belong there
        .link(dashboard.DashboardLink("Other dashboards of rtc-server").tags(["rtc-server"]).as_dropdown(True))
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(instances)
    )


def seconds(name: str) -> float:
    """The target of a stage."""
    return TARGETS_MS[name] / 1e3


def percentiles(histogram: Histogram, where: Mapping[str, str] | None = None) -> Queries:
    """Median, 95th and 99th percentile."""
    return {f"{round(100 * share)} %": quantile(share, histogram, where=where) for share in (0.5, 0.95, 0.99)}


def ratio(part: str, whole: str) -> str:
    """0 where nothing happened at all, instead of no number."""
    return f"({part}) / ({whole} > 0) or vector(0)"
