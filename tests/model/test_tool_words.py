"""What the user's words say about tools and arguments."""

from __future__ import annotations

import pytest

from model.backends.cascade.tool_schema import read_schema
from model.backends.cascade.tool_words import evidence, narrow, numbers, runs_of_words, stems
from model.interface import ToolSpec

WEATHER = ToolSpec(
    "get_weather",
    "Get the weather forecast.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
)


def narrowed(said: str, tool: ToolSpec = WEATHER) -> dict[str, object]:
    properties = narrow(read_schema(tool.parameters), tool, said)["properties"]
    assert isinstance(properties, dict)
    return {name: schema.get("enum", "anything") for name, schema in properties.items()}


def test_words_are_compared_without_their_endings() -> None:
    assert stems("setTimer set_timers Setting TIMED") == {"set", "tim"}
    assert stems("cities City") == {"city"}
    assert stems("What is it to you?") == set()


def test_a_tool_is_recognised_by_its_words() -> None:
    assert evidence("Will the weather be nice?", WEATHER) > evidence("In which city?", WEATHER) > 0
    assert evidence("How are you?", WEATHER) == 0
    assert evidence("The weather", ToolSpec("weather", "", {"type": 5})) > 0  # whatever its parameters are


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ten minutes", [10]),
        ("In 3.5 hours and 20 minutes", [3.5, 20]),
        ("twenty five people, or thirty", [20, 25, 5, 30]),
        ("none at all", []),
        ("你好 ٣", []),
    ],
)
def test_numbers_are_found_in_digits_and_words(said: str, expected: list[float]) -> None:
    assert numbers(said) == expected


def test_a_text_is_what_the_user_said() -> None:
    runs = runs_of_words("What is the weather in New York, please?", WEATHER)
    assert {"New", "York", "New York"} <= set(runs)
    assert not {"What", "the weather", "in New York", "New York, please"} & set(runs)


@pytest.mark.parametrize("said", ["Paris", "Weather", "你好", "...", ""])
def test_short_and_strange_words_are_taken_as_they_are(said: str) -> None:
    assert runs_of_words(said, WEATHER) == ([said] if said.strip(".") else [])


def test_long_speech_gives_a_bounded_choice() -> None:
    assert len(runs_of_words("one word after the other " * 1_000, WEATHER)) < 800


def test_what_nobody_spoke_of_is_left_out() -> None:
    assert list(narrowed("How is the weather in Rome?")) == ["city"]
    assert narrowed("The weather in Rome for 3 days in Celsius")["days"] == [3]
    assert narrowed("The weather in Rome for 3 days in Celsius")["unit"] == ["celsius"]
    assert "days" not in narrowed("The weather in Rome for 99 days")


def test_a_choice_that_was_not_named_stays_open() -> None:
    lamp = ToolSpec("lamp", "", {"type": "object", "properties": {"state": {"enum": ["on", "off"]}}})
    assert narrowed("Make it dark.", lamp) == {"state": ["on", "off"]}
    assert narrowed("Turn it off.", lamp) == {"state": ["off"]}


def test_parameters_that_all_may_be_left_out_are_all_asked_for() -> None:
    tool = ToolSpec("find", "", {"type": "object", "properties": {"what": {"type": "string"}}})
    assert "what" in narrowed("Please find my keys.", tool)


def test_a_choice_between_a_value_and_nothing_is_the_value() -> None:
    amount = {"anyOf": [{"type": "null"}, {"type": "integer"}]}
    tool = ToolSpec("order", "", {"type": "object", "properties": {"amount": amount}, "required": ["amount"]})
    assert narrowed("Two, please.", tool) == {"amount": [2]}
