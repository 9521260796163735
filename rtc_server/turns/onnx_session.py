"""How the small models of a media process run on onnxruntime: one thread, which sleeps while it waits. Pure."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import onnxruntime


@lru_cache(maxsize=4)
def load_session(path: Path) -> onnxruntime.InferenceSession:
    """The model, loaded once per process and shared by all calls (what state it has is passed in and out)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # A spinning worker would hold a core that the media loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
