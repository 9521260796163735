"""The embedded engine calls tools: the right one, with arguments that fit, and tells what they returned."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model.backends.cascade.engine import CascadeEngine
from model.interface import (
    AudioDelta,
    ConversationItem,
    HistoryItem,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallItem,
    ToolResultItem,
    ToolSpec,
)
from model.registry import create_engine
from model.weights import SMOLLM2_GGUF, default_models_dir, model_path
from tests.model.test_tool_schema import HOSTILE, of
from tests.support.engine_contract import Driver, assert_lawful
from tests.support.recordings import recording

REQUESTS = json.loads((Path(__file__).parent.parent / "data" / "tool_requests.json").read_text())
TOOLS = tuple(ToolSpec(**tool) for tool in REQUESTS[0]["tools"])
WEATHER, TIMER = TOOLS[:2]
CITY = of(city={"type": "string"})
RESULT = '{"temperature_c": 18, "sky": "sunny"}'
ASKED: tuple[HistoryItem, ...] = (
    ConversationItem("user", "What is the weather in Paris?"),
    ToolCallItem("call_1", "get_weather", '{"city": "Paris"}'),
    ToolResultItem("call_1", RESULT),
)


def called(driver: Driver, key: str) -> tuple[str, dict[str, object]] | None:
    pieces = driver.of(key, ToolCallDelta)
    if not pieces:
        return None
    assert_lawful(driver, key)
    return pieces[0].name, json.loads("".join(piece.arguments for piece in pieces))


def follow(driver: Driver, items: tuple[HistoryItem, ...], **fields: object) -> str:
    request = replace(driver.request(text=""), items=items, **fields)
    driver.engine.submit(request)
    driver.finish(request.response_id)
    assert_lawful(driver, request.response_id)
    return request.response_id


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_the_weather_is_asked_for(cascade: Driver, choice: str) -> None:
    key = cascade.say(text="What is the weather in Paris?", tools=TOOLS, tool_choice=choice)
    assert called(cascade, key) == ("get_weather", {"city": "Paris"})
    assert cascade.done(key).status == "completed"
    assert not cascade.of(key, TextDelta)
    assert not cascade.of(key, AudioDelta)
    assert len(cascade.of(key, ToolCallDelta)) > 2, "arguments are streamed"


def test_a_spoken_request_calls_a_tool_too(cascade: Driver) -> None:
    tool = ToolSpec("find_capital", "Find the capital of a country.", of(country={"type": "string"}))
    key = cascade.say(recording("f0_rms"), tools=(tool,), tool_choice="required")  # the capital of France
    assert called(cascade, key) == ("find_capital", {"country": "France"})
    assert cascade.transcript(key)


def test_talk_is_answered_although_there_are_tools(cascade: Driver) -> None:
    key = cascade.say(text="I am so happy today!", tools=TOOLS)
    assert called(cascade, key) is None
    assert cascade.text(key)
    assert cascade.audio_ms(key) > 0


def test_none_means_that_tools_are_ignored(cascade: Driver) -> None:
    keys = [
        cascade.say(text="What is the weather in Paris?", output="text", **fields)
        for fields in ({"tools": TOOLS, "tool_choice": "none"}, {})
    ]
    assert [called(cascade, key) for key in keys] == [None, None]
    with_tools, without = (cascade.done(key).usage for key in keys)
    assert with_tools.input_text_tokens == without.input_text_tokens
    assert cascade.text(keys[0])


def test_tools_are_chosen_about_as_well_as_measured(cascade: Driver) -> None:
    """Every fourth sentence; benchmarks/tool_calls.py has them all: precision 0.95, recall 0.90."""
    wrong = total = 0
    for requests in REQUESTS:
        tools = tuple(ToolSpec(**tool) for tool in requests["tools"])
        for sentence in requests["sentences"][::4]:
            key = cascade.say(text=sentence["said"], tools=tools, output="text", max_output_tokens=40)
            call = called(cascade, key)
            wrong += (call and call[0]) != sentence["tool"]
            total += 1
    assert wrong / total <= 0.15


def test_only_what_was_said_becomes_an_argument(cascade: Driver) -> None:
    key = cascade.say(text="Set a timer for twelve minutes.", tools=(TIMER,), tool_choice="required")
    assert called(cascade, key) == ("set_timer", {"minutes": 12})


def test_a_tool_without_parameters_is_called_without_writing(cascade: Driver) -> None:
    tool = ToolSpec("hang_up", "End the call.", {})
    key = cascade.say(text="Goodbye.", tools=(tool,), tool_choice="required")
    assert called(cascade, key) == ("hang_up", {})
    assert cascade.done(key).usage.output_text_tokens == 0


NESTED = of(
    trip=of(to={"type": "string"}, days={"type": "integer", "minimum": 1}, direct={"type": "boolean"}),
    wishes={"type": "array", "items": {"enum": ["window", "aisle"]}, "minItems": 1, "maxItems": 2},
)


def test_arguments_have_the_shape_of_their_schema(cascade: Driver) -> None:
    tool = ToolSpec("book_trip", "Book a trip.", NESTED)
    key = cascade.say(text="Book a trip to Rome for 3 days, window please.", tools=(tool,), tool_choice="required")
    _, arguments = called(cascade, key) or ("", {})
    assert isinstance(arguments["trip"]["to"], str)
    assert isinstance(arguments["trip"]["days"], int)
    assert isinstance(arguments["trip"]["direct"], bool)
    assert set(arguments["wishes"]) <= {"window", "aisle"}


@pytest.mark.parametrize(("tokens", "status"), [(1, "incomplete"), (4, "incomplete"), (60, "completed")])
def test_a_call_is_limited_and_says_so(cascade: Driver, tokens: int, status: str) -> None:
    key = cascade.say(
        text="What is the weather in Paris?", tools=(WEATHER,), tool_choice="required", max_output_tokens=tokens
    )
    assert cascade.done(key).status == status
    assert cascade.done(key).usage.output_text_tokens <= tokens
    assert any(piece.is_last for piece in cascade.of(key, ToolCallDelta)) == (status == "completed")


# --- what they returned


def test_a_result_is_told(cascade: Driver) -> None:
    key = follow(cascade, ASKED, tools=TOOLS)
    assert "18" in cascade.text(key) or "sunny" in cascade.text(key)
    assert called(cascade, key) is None, "the same is not asked for again"
    assert cascade.audio_ms(key) > 300


@pytest.mark.parametrize("output", ["", "{}", "not { json", "[" * 5_000, "word " * 5_000, '{"ok": true}', "你好"])
def test_any_result_is_answered(cascade: Driver, output: str) -> None:
    key = follow(cascade, (*ASKED[:2], ToolResultItem("call_1", output)), output="text")
    assert cascade.text(key).strip()
    assert cascade.done(key).status in ("completed", "incomplete")


def test_a_result_is_no_longer_than_may_be_said(cascade: Driver) -> None:
    items = (*ASKED[:2], ToolResultItem("call_1", "This is a rather long sentence that somebody wrote. " * 9))
    key = follow(cascade, items, output="text", max_output_tokens=9)
    assert cascade.done(key).status == "incomplete"
    assert cascade.done(key).usage.output_text_tokens <= 9


def test_two_results_are_told_together(cascade: Driver) -> None:
    items = (*ASKED, ToolCallItem("call_2", "get_weather", '{"city": "Rome"}'), ToolResultItem("call_2", '"rain"'))
    text = cascade.text(follow(cascade, items, output="text"))
    assert any(value in text for value in ("18", "sunny", "rain"))


def test_a_result_without_a_question_is_told(cascade: Driver) -> None:
    assert cascade.text(follow(cascade, ASKED[1:], output="text"))


def test_a_required_call_is_not_made_twice_in_a_row(cascade: Driver) -> None:
    key = follow(cascade, ASKED, tools=(WEATHER,), tool_choice="required")
    assert called(cascade, key) is None
    assert cascade.text(key)


def test_another_call_may_follow_a_result_where_one_is_required(cascade: Driver) -> None:
    key = follow(cascade, ASKED, tools=(TIMER,), tool_choice="required")
    name, _ = called(cascade, key) or ("", {})
    assert name == "set_timer"


# --- caches and counts


def test_tools_leave_the_conversation_s_cache_alone(cascade: Driver) -> None:
    history = (ConversationItem("user", "My dog is called Rex."), ConversationItem("assistant", "A nice name."))
    first = cascade.say(text="I like him a lot.", items=history, call_id="tools", tools=TOOLS, max_output_tokens=3)
    asked = cascade.say(text="What is the weather in Paris?", items=history, call_id="tools", tools=TOOLS)
    again = cascade.say(text="I like him a lot.", items=history, call_id="tools", max_output_tokens=3)
    assert called(cascade, asked)
    usage = cascade.done(again).usage
    assert usage.input_text_tokens - usage.cached_tokens < 20
    assert cascade.done(first).usage.input_text_tokens > usage.input_text_tokens, "all passes are counted"
    assert cascade.done(asked).usage.output_text_tokens >= 5


def test_a_decision_can_be_cancelled(cascade: Driver) -> None:
    for _ in range(5):
        key = cascade.submit(text="What is the weather in Paris?", tools=TOOLS)
        cascade.run_until(lambda key=key: bool(cascade.of(key, ResponseStarted)))
        cascade.engine.cancel(key)
    following = cascade.say(text="What is the weather in Paris?", tools=TOOLS)
    assert cascade.done(key).status == "cancelled"
    assert called(cascade, following)


# --- what a client could do to it


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_fails_its_response_and_nothing_else(cascade: Driver, name: str) -> None:
    engine = cascade.engine
    assert isinstance(engine, CascadeEngine)
    failures = engine.num_failures
    started = time.process_time()
    tool = ToolSpec("trap", "Do something.", HOSTILE[name])
    key = cascade.say(text="Do something.", tools=(tool,), tool_choice="required")
    assert time.process_time() - started < 5.0
    assert cascade.done(key).status == "failed"
    assert cascade.done(key).fault.code == "invalid_tool_schema"
    assert "trap" in cascade.done(key).fault.message
    assert engine.num_failures == failures, "not a failure of ours"


@pytest.mark.parametrize(
    "parameters",
    [
        of(a={"type": "integer", "minimum": 9, "maximum": 2}),
        of(a={"type": "string", "minLength": 5, "maxLength": 2}),
        of(a={"type": "array", "minItems": 3, "maxItems": 1}),
    ],
)
def test_a_schema_that_nothing_fits_fails_its_response(cascade: Driver, parameters: dict[str, object]) -> None:
    tool = ToolSpec("trap", "Do something.", parameters)
    key = cascade.say(text="你好", tools=(tool,), tool_choice="required", max_output_tokens=40)
    assert cascade.done(key).status == "failed"
    assert cascade.done(key).fault.code == "invalid_tool_schema"
    assert cascade.done(cascade.say(text="Hello!", output="text")).status == "completed"


@pytest.mark.parametrize("text", ["x" * 20_000, "你好" * 2_000, '"}\\u0000 \\', "one two three " * 500, "   "])
def test_strange_words_make_lawful_calls(cascade: Driver, text: str) -> None:
    key = cascade.say(text=text, tools=(ToolSpec("a", "", CITY), ToolSpec("b", "", CITY)), tool_choice="required")
    assert cascade.done(key).status in ("completed", "incomplete")
    assert_lawful(cascade, key)


def test_strange_names_and_many_tools_are_bearable(cascade: Driver) -> None:
    tools = tuple(ToolSpec(f'"|{n} <[1]> root ::=', "x" * 5_000, CITY) for n in range(100))
    key = cascade.say(text="What is the weather in Paris?", tools=tools, output="text")
    assert_lawful(cascade, key)
    assert cascade.done(key).status == "completed"


# --- a model of the operator's own (here the same one, asked as a larger one is)


@pytest.fixture
def own_model(embedded_weights: None) -> Iterator[Driver]:
    path = str(model_path(default_models_dir(), SMOLLM2_GGUF))
    options = {"llm_path": path, "temperature": 0.0, "max_sequences": 1, "context_tokens": 1024}
    driver = Driver(lambda wake: create_engine("cascade", options, wake))
    yield driver
    driver.engine.close()


def test_a_larger_model_decides_itself(own_model: Driver) -> None:
    required = own_model.say(text="What is the weather in Paris?", tools=TOOLS, tool_choice="required")
    name, arguments = called(own_model, required) or ("", {})
    tool = next(tool for tool in TOOLS if tool.name == name)
    assert set(tool.parameters["required"]) <= set(arguments)
    free = own_model.say(text="What is the weather in Paris?", tools=TOOLS, output="text")
    assert_lawful(own_model, free)
    assert own_model.done(free).usage.output_text_tokens >= 2, "the decision is counted"
    told = follow(own_model, ASKED, tools=TOOLS, tool_choice="required", output="text")
    assert own_model.done(told).status in ("completed", "incomplete")


def test_a_larger_model_is_as_safe(own_model: Driver) -> None:
    tools = (*TOOLS, ToolSpec("answer", "x" * 9_000, HOSTILE["nested 10,000 times"]))
    key = own_model.say(text="Hello! " * 500, tools=tools, output="text", max_output_tokens=30)
    assert own_model.done(key).usage.output_text_tokens <= 30
    key = own_model.say(text="Hello!", tools=tools[-1:], tool_choice="required")
    assert own_model.done(key).fault.code == "invalid_tool_schema"
    key = own_model.say(text="Hello!", tools=tools, tool_choice="required", max_output_tokens=1)
    assert own_model.done(key).status == "incomplete"
