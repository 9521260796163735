"""The bundled small checkpoint as a folder to serve from.

Random weights do not know when to stop, so its limits are low.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.opens2s_fixtures import BUNDLED, Fixtures

MAX_UNITS = 40
MAX_TEXT = 12


def small_checkpoint(folder: Path) -> dict[str, object]:
    """Copy checkpoint and decoder into `folder`; returns the backend's options for them."""
    fixtures = Fixtures(BUNDLED)
    checkpoint = Path(shutil.copytree(fixtures.checkpoint, folder / "checkpoint"))
    change(checkpoint / "tts" / "generation_config.json", max_new_tokens=MAX_UNITS)
    decoder = shutil.copytree(fixtures.decoder, folder / "decoder")
    return {
        "checkpoint": str(checkpoint),
        "decoder": str(decoder),
        "device": "cpu",
        "max_output_tokens": MAX_TEXT,
        "max_sequences": 4,  # warming up answers as many at once
        "threads": 1,
    }


def change(path: Path, **values: object) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
