"""How well the embedded language model calls tools: which one, or none, and with what arguments.

    python -m benchmarks.tool_calls                   all three sets of tests/data/tool_requests.json
    python -m benchmarks.tool_calls --llm-path X.gguf     a model of your own

Each set has four or five tools and 40 sentences, half of which need no tool. Precision and recall are those of
`tool_choice` "auto" (a call of the wrong tool counts against both); the arguments are those of "required", where the
right tool was called: a call is right if each value is, regardless of case and a leading article, and none is added.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import threading
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT
from model.interface import (
    ConversationItem,
    GenerateRequest,
    ResponseDone,
    SpeechEngine,
    ToolCallDelta,
    ToolChoice,
    ToolSpec,
)
from model.registry import create_engine

REQUESTS = ROOT / "tests" / "data" / "tool_requests.json"


class Asker:
    """An engine that is asked one thing after the other."""

    def __init__(self, options: dict[str, object]) -> None:
        self._woken = threading.Event()
        self.engine: SpeechEngine = create_engine("cascade", options, self._woken.set)
        self._count = 0

    def ask(self, said: str, tools: tuple[ToolSpec, ...], choice: ToolChoice) -> tuple[str | None, str, float]:
        """Name and arguments of the call, if any, and the seconds until the response was complete."""
        self._count += 1
        key = f"response-{self._count}"
        items = (ConversationItem("user", said),)
        began = time.monotonic()
        self.engine.submit(GenerateRequest("call", key, key, items, output="text", tools=tools, tool_choice=choice))
        calls: list[ToolCallDelta] = []
        while True:
            if not self.engine.has_work:
                self._woken.wait()
            self._woken.clear()
            for event in self.engine.step(time.monotonic()):
                if isinstance(event, ToolCallDelta):
                    calls.append(event)
                elif isinstance(event, ResponseDone):
                    name = calls[0].name if calls else None
                    return name, "".join(call.arguments for call in calls), time.monotonic() - began


def plain(value: object) -> object:
    """A value as it is compared."""
    return re.sub(r"^(the|some|a|my|our) ", "", value.lower().strip(" .?!")) if isinstance(value, str) else value


def measure(asker: Asker, requests: dict[str, Any], console: Console) -> list[str]:
    """The cells of one set's row; what went wrong is printed."""
    tools = tuple(ToolSpec(**tool) for tool in requests["tools"])
    hits = misses = false = right_tools = right_calls = right_values = num_values = 0
    seconds: list[float] = []
    for sentence in requests["sentences"]:
        said, wanted = sentence["said"], sentence["tool"]
        name, _, took = asker.ask(said, tools, "auto")
        seconds.append(took)
        hits += name == wanted is not None
        false += name is not None and name != wanted
        misses += wanted is not None and name != wanted
        if name != wanted:
            console.print(f"{said!r}: {name}, not {wanted}", style="dim")
        if wanted is None:
            continue
        name, arguments, _ = asker.ask(said, tools, "required")
        right_tools += name == wanted
        if name == wanted:
            given, expected = json.loads(arguments), sentence["arguments"]
            right = [plain(given.get(key)) == plain(value) for key, value in expected.items()]
            right_values, num_values = right_values + sum(right), num_values + len(right)
            is_right = all(right) and set(given) <= set(expected)
            right_calls += is_right
            if not is_right:
                console.print(f"{said!r}: {arguments}", style="dim")
    num_wanted = hits + misses
    return [
        f"{hits / max(1, hits + false):.2f}",
        f"{hits / num_wanted:.2f}",
        f"{right_tools} / {num_wanted}",
        f"{right_calls} / {right_tools}",
        f"{right_values} / {num_values}",
        f"{statistics.median(seconds):.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-path", default="")
    arguments = parser.parse_args()
    console = Console()
    asker = Asker({"llm_path": arguments.llm_path, "temperature": 0.0})
    asker.engine.warm_up()
    names = ("set", "precision", "recall", "right tool if required", "right calls", "right values", "seconds, median")
    table = Table(*names)
    try:
        for number, requests in enumerate(json.loads(REQUESTS.read_text()), 1):
            table.add_row(str(number), *measure(asker, requests, console))
    finally:
        asker.engine.close()
    console.print(table)


if __name__ == "__main__":
    main()
