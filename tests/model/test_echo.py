"""The echo engine keeps the contract and repeats exactly what it was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.interface import ConversationItem, ToolCallItem, ToolResultItem
from model.registry import create_engine
from tests.support.engine_contract import Driver, EngineContract
from tests.support.recordings import recording


@pytest.fixture
def driver() -> Driver:
    return Driver(lambda wake: create_engine("echo", {}, wake))


@pytest.fixture
def disposable(driver: Driver) -> Driver:
    return driver


class TestContract(EngineContract):
    pass


def test_a_spoken_turn_comes_back_sample_by_sample(driver: Driver) -> None:
    key = driver.say(recording("f2_rms"))
    np.testing.assert_array_equal(driver.audio(key), recording("f2_rms"))
    assert driver.text(key) == ""


def test_a_typed_turn_comes_back_as_text_without_sound(driver: Driver) -> None:
    history = (ConversationItem("user", "before"), ConversationItem("assistant", "before"))
    key = driver.say(text="Say this.", items=history)
    assert driver.text(key) == "Say this."
    assert not len(driver.audio(key))


def test_of_a_spoken_turn_text_alone_says_how_long_it_was(driver: Driver) -> None:
    key = driver.say(np.ones(33_600, np.int16), output="text")
    assert driver.text(key) == "I heard 2.1 seconds of audio."
    assert not len(driver.audio(key))


def test_a_result_comes_back_too(driver: Driver) -> None:
    items = (ToolCallItem("c", "add", "{}"), ToolResultItem("c", "42"))
    request = driver.request(text="")
    driver.engine.submit(replace(request, items=items))
    driver.finish(request.response_id)
    assert driver.text(request.response_id) == "42"


def test_options_are_refused() -> None:
    with pytest.raises(ValueError, match="volume"):
        create_engine("echo", {"volume": 11}, lambda: None)
