"""One real server for all stock clients, with a key and with pages of another origin, and the packages from npm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.clients.dialogue import KEY, write_speech
from tests.support.npm_clients import NpmClients, npm_clients
from tests.support.pages import Pages, pages_process
from tests.support.server_process import ServerProcess, Value, server_process

SETTINGS: Mapping[str, Value] = {"auth.api_keys": [KEY], "cascade.temperature": 0.0, "server.max_calls": 4}


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> NpmClients:
    """The npm clients and our scripts for them."""
    return npm_clients(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both turns as 24 kHz WAV files."""
    return write_speech(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="package")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A web server for pages of another origin."""
    with pages_process(tmp_path_factory.mktemp("pages")) as running:
        yield running


@pytest.fixture(scope="package")
def shared_server(pages: Pages) -> Iterator[ServerProcess]:
    """The server with the embedded models, HTTP and HTTPS. Loading the models is what costs time, so all share it."""
    with server_process("cascade", {**SETTINGS, "auth.allowed_origins": [pages.origin]}, tls=True) as running:
        yield running


@pytest.fixture
def stock_server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    """It, without any call before and after the test."""
    shared_server.wait_for_calls(0)
    yield shared_server
    print(shared_server.log)  # pytest shows it when the test failed
    shared_server.wait_for_calls(0, 20.0)
    assert "Traceback" not in shared_server.log
