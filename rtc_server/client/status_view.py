"""A status document (`GET /v1/status`) as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

STAGES = {
    "response": "Whole response",
    "inference": "To first words",
    "jitter_buffer": "Receive",
    "endpoint": "End of turn",
    "queue": "Queue",
    "recognition": "Recognition",
    "first_text": "First words",
    "first_audio": "First sound",
    "playout": "Play-out",
}
"""As the page at `/status` names them."""


def status_view(document: dict[str, Any]) -> RenderableType:
    """Capacity, latency by stage, processes, calls. Raises LookupError, TypeError, ValueError or AttributeError for a
    document of another shape. The server's words are printed as they are, without markup or control characters."""
    engine = document["engine"]
    ready = Text("ready", "green") if document["ready"] else Text(str(document["reason"] or "not ready"), "bold red")
    head = Text.assemble(
        ("rtc-server ", "bold"),
        f"{document['version']}, up for {_duration(document['uptime_seconds'])}, ",
        ready,
        f"\n{document['calls']} of {document['max_calls']} calls; engine {engine['model'] or engine['backend']} ",
        Text("ready", "green") if engine["ready"] else Text("not ready", "bold red"),
        f", {engine['restarts']} restarts",
    )
    if document.get("telephony") is not None:
        head.append_text(_telephony(document["telephony"]))
    parts: list[RenderableType] = [head, ""]
    for table in (_latency(document), _nodes(document), _calls(document)):
        if table.row_count:
            parts += [table, ""]
    return Group(*parts)


def _telephony(telephony: dict[str, Any]) -> Text:
    """Another line of the head."""
    return Text.assemble(
        "\ntelephone ",
        Text("ready", "green") if telephony["ready"] else Text("not ready", "bold red"),
        f": {int(telephony['ringing'])} ringing, {int(telephony['calling'])} being called, "
        f"{int(telephony['answered_in'])} called in, {int(telephony['answered_out'])} called out, "
        f"{int(telephony['restarts'])} restarts",
    )


def _table(*columns: str) -> Table:
    """The first column is a name, the others are numbers. The table of calls fits into 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _latency(document: dict[str, Any]) -> Table:
    table = _table("Stage", "Turns", "Median", "95 %", "Target")
    for name, found in document["latency"].items():
        target, worst = found["target_ms"], found["p95_ms"]
        style = "yellow" if target is not None and worst > target else ""
        table.add_row(
            Text(STAGES.get(name, name)),
            str(int(found["count"])),
            _ms(found["p50_ms"]),
            Text(_ms(worst), style),
            _ms(target),
        )
    return table


def _nodes(document: dict[str, Any]) -> Table:
    table = _table("Process", "State", "Calls", "Restarts")
    for node in document["nodes"]:
        name = f"Media worker {node['index']}" if node["kind"] == "worker" else "Server"
        fine = node["ready"] and node["answers"]
        state = Text("ready", "green") if fine else Text("starting" if node["answers"] else "silent", "bold red")
        table.add_row(Text(name), state, str(int(node["calls"])), str(int(node["restarts"])))
    return table


def _calls(document: dict[str, Any]) -> Table:
    table = _table("Call", "State", "Age", "Turns", "Last", "Jitter", "Loss in/out", "Trip")
    for call in document["live_calls"]:
        table.add_row(
            Text(call["call_id"]),
            Text(call["state"]),
            _duration(call["age_seconds"]),
            str(int(call["turns"])),
            _ms(call["latency_ms"]),
            _ms(call["jitter_ms"]),
            f"{_share(call['loss'])}/{_share(call['remote_loss'])}",
            _ms(call["round_trip_ms"]),
        )
    return table


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < 1e3 else f"{value / 1e3:.2f} s"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _duration(seconds: float) -> str:
    """3:07, 1:02:03, or 4 days."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
