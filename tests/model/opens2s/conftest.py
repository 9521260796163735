"""What the tests of OpenS2S share: the parity fixtures."""

from __future__ import annotations

import pytest
import torch

from tests.support.opens2s_fixtures import Fixtures, load_fixtures


@pytest.fixture(scope="session")
def fixtures() -> Fixtures:
    """The bundled fixtures, or those that `OPENS2S_FIXTURES` names."""
    return load_fixtures()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Results do not depend on the number of cores, and two test runs do not fight for them."""
    torch.set_num_threads(1)
