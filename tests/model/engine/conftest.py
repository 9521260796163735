"""What the tests of the engine share: the small model, and engines of it on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from model.opens2s.checkpoint import open_checkpoint
from model.opens2s.model import OpenS2S
from tests.support.opens2s_fixtures import BUNDLED, Fixtures
from tests.support.opens2s_watch import Outcome, VirtualTime, Watched, lively_checkpoint

BuildEngine = Callable[..., Watched]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Results do not depend on the number of cores, and two test runs do not fight for them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> OpenS2S:
    """The small model in float32."""
    return open_checkpoint(Fixtures(BUNDLED).checkpoint).load()


@pytest.fixture(scope="session")
def checkpoint_options(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, object]]:
    """Options of the small checkpoint by its interleaving."""
    return cache(lambda interleaving: lively_checkpoint(tmp_path_factory.mktemp("opens2s"), interleaving))


@pytest.fixture(scope="module")
def clock() -> Iterator[VirtualTime]:
    """The time of all engines of a module."""
    time = VirtualTime()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.backends.opens2s.engine.time", time)
        yield time


@pytest.fixture(scope="module")
def build(clock: VirtualTime, checkpoint_options: Callable[[str], dict[str, object]]) -> Iterator[BuildEngine]:
    """Builds engines of the small checkpoint with other options; they are closed after the module."""
    built: list[Watched] = []

    def make(interleaving: str = "1:2", **options: object) -> Watched:
        built.append(Watched(checkpoint_options(interleaving) | options, clock))
        return built[-1]

    yield make
    for driver in built:
        driver.engine.close()


@pytest.fixture(scope="module")
def engine_of(build: BuildEngine) -> Callable[[str], Watched]:
    """An engine with room for everybody, by its interleaving; tests leave it clean."""
    return cache(build)


@pytest.fixture(scope="module")
def engine(engine_of: Callable[[str], Watched]) -> Watched:
    return engine_of("1:2")


@pytest.fixture(scope="session")
def known_outcomes() -> dict[tuple[str, str], Outcome]:
    return {}


@pytest.fixture(scope="module")
def alone(build: BuildEngine, known_outcomes: dict[tuple[str, str], Outcome]) -> Callable[..., Outcome]:
    """What comes of a case alone in an engine that has read and heard nothing."""
    engine_of = cache(build)

    def outcome(name: str, interleaving: str = "1:2") -> Outcome:
        key = (name, interleaving)
        if key not in known_outcomes:
            driver = engine_of(interleaving)
            response_id = driver.ask(name)
            driver.run(response_id)
            known_outcomes[key] = driver.outcome(response_id)
            driver.forget()
        return known_outcomes[key]

    return outcome
