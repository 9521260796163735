"""One browser and one server per module; every test gets a page of its own and leaves no call behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from playwright.sync_api import Browser

from tests.browser.caller import Caller
from tests.browser.chromium import LEAD_SECONDS, SPEECH, chromium, write_microphone
from tests.support.server_process import ServerProcess, server_process

SILENCE_SECONDS = 60.0  # after the question the fake microphone says nothing more

# It would fetch every file again for each page, and answer what a test wants to answer itself.
NO_SERVICE_WORKER = "delete Navigator.prototype.serviceWorker"

OpenPage: TypeAlias = Callable[..., Caller]
"""open_page(url="", allows_microphone=True, scheme="light", width=1280, height=800) -> a caller at that page."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its microphone asks "What is the capital of France?" once, one second after it is opened."""
    if os.environ.get("RTC_SERVER_SKIP_BROWSER") == "1":
        pytest.skip("RTC_SERVER_SKIP_BROWSER is 1")
    microphone = tmp_path_factory.mktemp("microphone") / "question.wav"
    write_microphone(microphone, [SPEECH / "f0_rms.wav"], LEAD_SECONDS, SILENCE_SECONDS)
    with chromium(microphone) as running:
        yield running


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """The real server; a module chooses what speaks with BACKEND."""
    with server_process(getattr(request.module, "BACKEND", "echo")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_leaked_threads(no_leaked_processes_and_sockets: None, browser: Browser, no_leaked_threads: None) -> None:
    """The check of every test, begun after the browser of the module, whose thread lives as long as it does."""


@pytest.fixture
def open_page(browser: Browser, server: ServerProcess) -> Iterator[OpenPage]:
    """Opens pages; afterwards they are closed, have had nothing to complain about, and hold no call."""
    callers: list[Caller] = []

    def open_page(
        url: str = "",
        *,
        allows_microphone: bool = True,
        scheme: str = "light",
        width: int = 1280,
        height: int = 800,
        reduced_motion: str = "no-preference",
        is_installable: bool = False,
        is_phone: bool = False,
    ) -> Caller:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce" if reduced_motion == "reduce" else "no-preference",
            has_touch=is_phone,
            is_mobile=is_phone,
        )
        if not is_installable:
            context.add_init_script(NO_SERVICE_WORKER)
        caller = Caller(context.new_page(), url or server.url, allows_microphone=allows_microphone)
        callers.append(caller)
        return caller

    yield open_page
    for caller in callers:
        caller.page.context.close()
    print(server.log)  # pytest shows it when the test failed
    server.wait_for_calls(0)
    assert [problem for caller in callers for problem in caller.problems] == []


@pytest.fixture
def caller(open_page: OpenPage) -> Caller:
    """Someone in front of the loaded page."""
    caller = open_page()
    caller.opens_the_page()
    return caller


@pytest.fixture
def typist(caller: Caller) -> Caller:
    """Someone in front of the loaded page who types and does not speak."""
    caller.says_nothing()
    return caller
