"""What the tests of OpenS2S share: the parity fixtures and the small model they were made with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model.backends.opens2s.engine import create
from model.opens2s.checkpoint import Checkpoint, open_checkpoint
from model.opens2s.model import OpenS2S
from tests.support.engine_contract import Driver
from tests.support.opens2s_conversations import conversations, embed
from tests.support.opens2s_fixtures import BUNDLED, Fixtures, load_fixtures
from tests.support.opens2s_small import small_checkpoint


@pytest.fixture(scope="session")
def fixtures() -> Fixtures:
    """The bundled fixtures, or those that `OPENS2S_FIXTURES` names: for tests against the reference's numbers."""
    return load_fixtures()


@pytest.fixture(scope="session")
def bundled() -> Fixtures:
    """The bundled fixtures in any case: for tests of ours that spoil files or whose limits fit these weights."""
    return Fixtures(BUNDLED)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Results do not depend on the number of cores, and two test runs do not fight for them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(fixtures: Fixtures) -> Checkpoint:
    """The small checkpoint without its weights."""
    return open_checkpoint(fixtures.checkpoint)


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> OpenS2S:
    """The small model in float32, with the speech model's whole vocabulary."""
    return checkpoint.load(restrict_head=False)


@pytest.fixture(scope="session")
def prompts(fixtures: Fixtures, checkpoint: Checkpoint, model: OpenS2S) -> dict[str, torch.Tensor]:
    """Name of a conversation -> embeddings of its prompt, made as the reference makes them."""
    return {name: embed(model, checkpoint, [one])[0] for name, one in conversations(fixtures).items()}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Of the small checkpoint, with a voice."""
    folder = tmp_path_factory.mktemp("opens2s")
    voice = folder / "anna.npy"
    np.save(voice, np.random.default_rng(0).standard_normal(512).astype(np.float32))
    return small_checkpoint(folder) | {"voices": {"anna": str(voice)}}


@pytest.fixture(scope="module")
def shared(options: dict[str, object]) -> Iterator[Driver]:
    """One warm engine for a module."""
    driver = Driver(lambda wake: create(options, wake))
    driver.engine.warm_up()
    yield driver
    driver.engine.close()


@pytest.fixture
def driver(shared: Driver) -> Iterator[Driver]:
    """The module's engine; what a test leaves is cleared away."""
    yield shared
    shared.reset()


@pytest.fixture
def disposable(options: dict[str, object]) -> Iterator[Driver]:
    """An engine of its own, not warm."""
    driver = Driver(lambda wake: create(options, wake))
    yield driver
    driver.engine.close()
