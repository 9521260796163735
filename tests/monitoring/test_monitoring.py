"""`monitoring/`: Prometheus takes it, every alert fires when it should and only then, every name is one of ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from rtc_server import metrics
from scripts.dashboards import FOLDER, texts
from scripts.promql import names_of
from tests.support.running_server import free_port
from tests.support.server_process import ServerProcess, server_process

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
KEY = "sk_0123456789abcdefghijklmnop"
READY_SECONDS = 60.0

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DASHBOARDS: dict[str, dict[str, Any]] = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
NAMES: dict[str, frozenset[str]] = {
    name: labels
    for metric in vars(metrics).values()
    if isinstance(metric, MetricWrapperBase)
    for name, labels in names_of(metric).items()
}
NAMES["up"] = frozenset({"instance", "job"})
NAMES |= {rule["record"]: frozenset({"instance"}) for rule in RULES if "record" in rule}


def program(name: str) -> str:
    """Where it is. Skips the test where it is not: set-up gets it from Debian, elsewhere it must be installed."""
    own = ROOT / ".venv" / "prometheus" / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: run scripts/setup.sh --test on Debian, or install Prometheus")
    return found


def promtool(*arguments: str | Path) -> str:
    """Run it; its output. Raises AssertionError when it is not content."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configured(folder: Path, **replaced: str) -> Path:
    """The configuration as an operator has it: with the key beside it, and some of its texts `replaced`."""
    shutil.copytree(MONITORING, folder, dirs_exist_ok=True)
    (folder / "rtc-server.key").write_text(KEY + "\n", encoding="utf-8")
    path = folder / "prometheus.yml"
    text = path.read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


# --- promtool


def test_prometheus_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    promtool("check", "config", configured(tmp_path))
    promtool("check", "rules", MONITORING / "rules.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", MONITORING / "rules_test.yml")


def test_every_alert_is_tried_both_ways() -> None:
    tried: dict[str, set[bool]] = {name: set() for name in ALERTS}
    for test in yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tried[case["alertname"]].add(bool(case["exp_alerts"]))
    assert {name: ways for name, ways in tried.items() if ways != {True, False}} == {}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_urgent_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    document, anchor = rule["annotations"]["runbook"].split("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in [heading.strip("`").lower() for heading in headings]


# --- names


def mistakes_of(expression: str) -> list[str]:
    """Names and labels that the server does not have."""
    plain = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    return sorted(set(_mistakes(promql_parser.parse(plain), None)))


def _mistakes(node: Any, labels: frozenset[str] | None) -> Iterator[str]:
    """`labels`: those that the node's values still have, as far as a `by` around it asks."""
    match node:
        case promql_parser.VectorSelector():
            known = NAMES.get(node.name)
            if known is None:
                yield f"no metric {node.name}"
                return
            for matcher in node.matchers.matchers:
                if matcher.name not in known:
                    yield f"{node.name} has no label {matcher.name}"
                elif matcher.name in metrics.LABELS:
                    wrong = set(matcher.value.split("|")) - metrics.LABELS[matcher.name]
                    yield from (f"{matcher.name} is never {value}" for value in wrong)
                elif matcher.name == "le" and matcher.value not in EDGES[node.name]:
                    yield f"{node.name} has no bucket {matcher.value}"
            yield from (f"{node.name} has no label {label}" for label in (labels or frozenset()) - known)
        case promql_parser.MatrixSelector():
            yield from _mistakes(node.vector_selector, labels)
        case promql_parser.AggregateExpr():
            by = None if node.modifier is None else frozenset(node.modifier.labels)
            yield from _mistakes(node.expr, by)
        case promql_parser.Call():
            for argument in node.args:
                yield from _mistakes(argument, labels)
        case promql_parser.BinaryExpr():
            yield from _mistakes(node.lhs, labels)
            yield from _mistakes(node.rhs, labels)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _mistakes(node.expr, labels)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise TypeError(f"unknown part of an expression: {type(node).__name__}")


EDGES = {
    f"{metric._name}_bucket": {str(float(edge)) for edge in metric._upper_bounds} | {"+Inf"}
    for metric in vars(metrics).values()
    if isinstance(metric, metrics.Histogram)
}


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
def test_a_rule_names_only_what_there_is(rule: dict[str, Any]) -> None:
    assert mistakes_of(rule["expr"]) == []


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_names_only_what_there_is_and_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["targets"]
    for target in panel["targets"]:
        assert mistakes_of(target["expr"]) == []


def test_the_comparison_finds_what_is_wrong() -> None:
    wrong = 'sum by (nobody) (rate(rtc_server_calls_ended_total{reason="bored", stage="x"}[5m])) / rtc_server_cals'
    assert mistakes_of(wrong) == [
        "no metric rtc_server_cals",
        "reason is never bored",
        "rtc_server_calls_ended_total has no label nobody",
        "rtc_server_calls_ended_total has no label stage",
    ]
    wrong = 'histogram_quantile(0.5, rate(rtc_server_response_latency_seconds_bucket{le="0.45"}[$__rate_interval]))'
    assert mistakes_of(wrong) == ["rtc_server_response_latency_seconds_bucket has no bucket 0.45"]


# --- dashboards


def test_the_dashboards_are_up_to_date() -> None:
    assert {path: path.read_text(encoding="utf-8") for path in texts()} == texts(), "run python -m scripts.dashboards"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_numbers_and_places_of_their_own(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells


# --- a real Prometheus beside a real server


@contextmanager
def prometheus(config: Path, data: Path) -> Iterator[str]:
    """One that runs; its address."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={data}"]
    with (config.parent / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={url.removeprefix('http://')}"], stdout=log, stderr=log
        )
    try:
        yield url
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers. Raises HTTPError for an expression that it does not understand."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as reply:
        answer: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    return answer


def wait_for(url: str, expression: str) -> list[dict[str, Any]]:
    """The first answer that is not empty. Raises AssertionError."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if answer := ask(url, expression):
                return answer
        except OSError:
            pass  # does not listen yet
        time.sleep(0.2)
    raise AssertionError(f"{expression} had no answer within {READY_SECONDS} s")


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[tuple[ServerProcess, str]]:
    """A server that wants a key even of its own machine's Prometheus, because there is a proxy between them."""
    program("prometheus")
    with server_process("echo", {"auth.api_keys": [KEY], "server.media_workers": 1}) as server:
        target = server.url.removeprefix("http://")
        config = configured(tmp_path / "etc", **{"127.0.0.1:8000": target, "15s": "1s"})
        with prometheus(config, tmp_path / "data") as url:
            yield server, url


def test_a_prometheus_reads_a_server_and_every_expression_is_understood(scraped: tuple[ServerProcess, str]) -> None:
    server, url = scraped
    (up,) = wait_for(url, 'up{job="rtc-server"} == 1')
    assert up["metric"]["instance"] == server.url.removeprefix("http://")
    assert [sample["value"][1] for sample in wait_for(url, "rtc_server_engine_ready")] == ["1"]
    processes = {sample["metric"]["process"] for sample in wait_for(url, "rtc_server_rss_bytes")}
    assert {"signaling", "media-0", "engine"} <= processes
    assert wait_for(url, 'rtc_server_calls_ended_total{reason="internal_error"}'), "there from the start, at 0"
    for panel in PANELS:
        for target in panel.values[0]["targets"]:
            ask(url, target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*"))
    for rule in RULES:
        ask(url, rule["expr"])
    assert ask(url, 'ALERTS{alertstate="firing"}') == [], "a healthy server wakes nobody"
