"""The cascade engine, loaded once for all its tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from model.registry import create_engine
from model.weights import default_models_dir, fetch
from tests.support.engine_contract import Driver

SHARED = "shared_cascade"
CONTEXT_TOKENS = 640


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Load the shared engine before the checks for leaked threads look, since it outlives single tests."""
    for item in items:
        if isinstance(item, pytest.Function) and SHARED in item.fixturenames:
            item.fixturenames.remove(SHARED)
            item.fixturenames.insert(0, SHARED)


@pytest.fixture(scope="session")
def embedded_weights() -> None:
    """Fetch the weights where nobody has yet."""
    fetch(default_models_dir())


@pytest.fixture(scope="session")
def shared_cascade(embedded_weights: None) -> Iterator[Driver]:
    """One warm engine for the whole session. Temperature 0, so that replies do not depend on luck; a short
    context, so that overflowing it does not take long."""
    options = {"temperature": 0.0, "context_tokens": CONTEXT_TOKENS}
    driver = Driver(lambda wake: create_engine("cascade", options, wake))
    driver.engine.warm_up()
    yield driver
    driver.engine.close()


@pytest.fixture
def cascade(shared_cascade: Driver) -> Iterator[Driver]:
    """The shared engine, idle before and after."""
    yield shared_cascade
    shared_cascade.reset()
