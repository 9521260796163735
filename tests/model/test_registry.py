"""Engines are found by name and built from plain settings; mistakes are answered with what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from model.backends.cascade.options import CascadeOptions
from model.registry import UnknownBackendError, backend_names, create_engine


def test_backends_are_known_by_name() -> None:
    assert backend_names() == ("cascade", "echo", "opens2s")


@pytest.mark.parametrize(("name", "hint"), [("cascad", "cascade"), ("ECHO", "echo"), ("zzz", "cascade, echo")])
def test_an_unknown_backend_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UnknownBackendError, match=hint):
        create_engine(name, {}, lambda: None)


def test_the_echo_backend_loads_no_model_library() -> None:
    code = (
        "import sys; from model.registry import create_engine; create_engine('echo', {}, lambda: None);"
        "print([m for m in ('onnxruntime', 'xllamacpp', 'hibari', 'scipy', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_options_take_the_names_and_types_of_the_settings() -> None:
    options = CascadeOptions.from_mapping({"temperature": 0, "llm_threads": 2, "models_dir": "/models"})
    assert (options.temperature, options.llm_threads, str(options.models_path)) == (0.0, 2, "/models")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm_thread": 1}, "did you mean 'llm_threads'"),
        ({"quatsch": 1}, "use one of asr_threads"),
        ({"llm_threads": "2"}, "must be of type int"),
        ({"llm_threads": True}, "must be of type int"),
        ({"max_sequences": 0}, "at least 1"),
        ({"context_tokens": 100}, "at least 512"),
        ({"voice": "nobody", "models_dir": ""}, "nobody"),
    ],
)
def test_options_that_do_not_fit_are_refused(embedded_weights: None, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_engine("cascade", options, lambda: None)


def test_options_agree_with_the_settings_section() -> None:
    from rtc_server.config import CascadeSection

    settings = CascadeSection().model_dump()
    assert CascadeOptions.from_mapping(settings) == CascadeOptions()
    assert set(settings) == set(CascadeOptions.__slots__) - {"models_dir"}
