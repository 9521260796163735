"""`rtc-server config`: the effective settings and where each came from."""

from __future__ import annotations

import json

from rich.table import Table

from .console import ConfigOption, JsonOption, out, print_json

EPILOG = """
Flags of `rtc-server serve` win over the environment (RTC_SERVER__TURNS__THRESHOLD=0.6), which wins over the
settings file. docs/configuration.md explains every key.
"""


def config(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Print every setting that is in force, and where it came from."""
    from rtc_server.config import DEFAULT, explain, load_settings

    rows = explain(load_settings(config))
    if json_output:
        print_json([row._asdict() for row in rows])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("source", overflow="fold")
    for row in rows:
        style = "dim" if row.source == DEFAULT else ""
        table.add_row(row.key, json.dumps(row.value, ensure_ascii=False), row.source, style=style)
    out().print(table)
