"""Settings: where values come from, what is refused, and that file, documents and code agree with the model."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from rtc_server import config
from rtc_server.config import Settings, explain, load_settings, settings_keys
from rtc_server.errors import ConfigError
from scripts import configuration

ROOT = Path(__file__).resolve().parent.parent
BACKEND_SECTIONS = ("cascade", "opens2s")
"""Sections that a backend gets as a plain mapping."""


def write(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text, encoding="utf-8")
    return path


def source_of(settings: Settings, key: str) -> str:
    return next(row.source for row in explain(settings) if row.key == key)


# --- sources


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""))
    assert settings == Settings()
    assert {row.source for row in explain(settings)} == {"default"}


def test_the_command_line_wins_over_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[server]\nhttp_port = 1\nhttps_port = 2\nmax_calls = 3\n")
    monkeypatch.setenv("RTC_SERVER__SERVER__HTTPS_PORT", "20")
    monkeypatch.setenv("RTC_SERVER__SERVER__MAX_CALLS", "30")
    settings = load_settings(path, {"server.max_calls": 300})
    server = settings.server
    assert (server.http_port, server.https_port, server.max_calls) == (1, 20, 300)
    assert source_of(settings, "server.http_port") == str(path)
    assert source_of(settings, "server.https_port") == "RTC_SERVER__SERVER__HTTPS_PORT"
    assert source_of(settings, "server.max_calls") == "command line"
    assert source_of(settings, "server.host") == "default"


def test_the_file_of_the_current_folder_is_read_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().server.max_calls == 10
    (tmp_path / "config").mkdir()
    write(tmp_path / "config", "[server]\nmax_calls = 4\n")
    assert load_settings().server.max_calls == 4


@pytest.mark.parametrize(
    ("text", "expected"), [("0,1", (0, 1)), ("[0, 1]", (0, 1)), ("3", (3,)), ("", ()), (" 2 , 5 ", (2, 5))]
)
def test_lists_in_the_environment_are_json_or_have_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[int, ...]
) -> None:
    monkeypatch.setenv("RTC_SERVER__ENGINE__CPU_AFFINITY", text)
    assert load_settings().engine.cpu_affinity == expected


def test_tables_are_toml_in_the_file_and_json_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ('[opens2s]\nvoices = { anna = "a.npy" }\n', '[opens2s.voices]\nanna = "a.npy"\n'):
        assert load_settings(write(tmp_path, text)).opens2s.voices == {"anna": "a.npy"}
    monkeypatch.setenv("RTC_SERVER__OPENS2S__VOICES", '{"ben": "b.npz"}')
    assert load_settings(write(tmp_path, "")).opens2s.voices == {"ben": "b.npz"}
    monkeypatch.setenv("RTC_SERVER__OPENS2S__VOICES", "ben=b.npz")
    assert "RTC_SERVER__OPENS2S__VOICES" in refusal()


@pytest.mark.parametrize(("text", "expected"), [("false", False), ("0", False), ("true", True), ("1", True)])
def test_switches_in_the_environment_are_words_or_digits(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    monkeypatch.setenv("RTC_SERVER__SERVER__TLS", text)
    assert load_settings().server.tls is expected


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTC_SERVER_ALLOW_CUDA_TORCH", "1")
    monkeypatch.setenv("RTC_SERVERS", "x")
    assert load_settings().server == Settings().server


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.server.max_calls = 3  # type: ignore[misc]


# --- refusals


def refusal(path: Path | None = None, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, {key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[turns]\ntreshold = 0.6\n", "there is no key turns.treshold; did you mean turns.threshold?"),
        ("[tunrs]\nthreshold = 0.6\n", "there is no section [tunrs]; did you mean turns?"),
        ("[server]\nthreshold = 0.6\n", "did you mean turns.threshold?"),
        ("server = 3\n", "server is a section"),
        ("port = 8000\n", "there is no section [port]"),
        ("[turns\n", "is not valid TOML"),
        ("[turns]\nthreshold = 1.5\n", "turns.threshold = 1.5"),
        ("[turns]\nthreshold = 1.5\n", "less than or equal to 1"),
        ("[turns]\nvad = 'sillero'\n", "'gated', 'silero' or 'webrtcvad'"),
        ("[server]\nhttp_port = 8443\n", "http_port and https_port are both 8443; they must differ"),
        ("[server]\nhttp_port = 8765\n", "http_port and realtime_port are both 8765; they must differ"),
        ("[engine]\nrestart_backoff_max_seconds = 0.1\n", "is less than restart_backoff_seconds"),
        ("[webrtc]\nhost_addresses = ['localhost']\n", "'localhost' is not an IP address"),
        ("[auth]\nallowed_origins = ['app.example']\n", "'app.example' is not an origin"),
        ("[auth]\nallowed_origins = ['https://app.example/']\n", "is not an origin"),
        ("[auth]\ntrusted_proxies = ['proxy']\n", "'proxy' is not an IP address"),
        ("[webrtc]\nice_servers = ['http://x']\n", "write for example 'stun:stun.example.org:3478'"),
        ("[opens2s]\ndevice = 'gpu'\n", "opens2s.device = "),
        ("[opens2s]\nquantization = 'int4'\n", "'none', 'int8' or 'fp8'"),
        ("[opens2s]\nmax_output_tokens = 2000\n", "less than or equal to 1024"),
        ("[opens2s]\nvoices = { anna = 'a.wav' }\n", "opens2s.voices = "),
        ("[opens2s]\nvoices = { 'an na' = 'a.npy' }\n", "opens2s.voices = "),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    message = refusal(path)
    assert said in message
    if "[server]\nhttp_port" not in text and "[engine]" not in text:  # rules about two keys name the section
        assert str(path) in message


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nhttp_port = 99999\nmax_calls = 0\n")
    message = refusal(path)
    assert "http_port" in message
    assert "max_calls" in message


def test_a_misspelt_variable_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTC_SERVER__TURNS__TRESHOLD", "0.6")
    assert "did you mean RTC_SERVER__TURNS__THRESHOLD?" in refusal()


def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTC_SERVER__ENGINE__CPU_AFFINITY", "[0, x]")
    assert "RTC_SERVER__ENGINE__CPU_AFFINITY" in refusal()


def test_an_unknown_override_is_refused() -> None:
    assert "did you mean server.http_port?" in refusal(server__htp_port=1)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.toml")


# --- agreement


def test_the_shipped_file_holds_every_key_with_its_default_and_a_comment() -> None:
    text = configuration.CONFIG_FILE.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {
        section: {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
        for section, keys in Settings().model_dump().items()
    }
    lines = text.splitlines()
    for key in settings_keys():
        name = key.name.split(".")[1]
        places = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert all(lines[number - 1].startswith("# ") for number in places), name


def test_the_shipped_file_and_the_document_are_generated_from_the_model() -> None:
    stale = "run `python -m scripts.configuration`"
    assert configuration.CONFIG_FILE.read_text(encoding="utf-8") == configuration.config_file_text(), stale
    document = configuration.DOCUMENT.read_text(encoding="utf-8")
    assert document == configuration.document_text(document), stale


def test_every_key_has_a_sentence() -> None:
    for key in settings_keys():
        assert key.field.description, f"{key.name} has no doc string"
        assert key.field.description.rstrip().endswith((".", ".)")), key.name


def test_every_key_is_read_by_some_code() -> None:
    reads = set()
    for folder in ("rtc_server", "model"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent != Path(config.__file__).parent:
                reads |= _reads(ast.parse(path.read_text(encoding="utf-8")), folder)
    unread = [key.name for key in settings_keys() if not _is_read(key.name, reads)]
    assert not unread, f"no code reads {', '.join(unread)}"


def _reads(tree: ast.Module, folder: str) -> set[tuple[str, str]]:
    """(owner, name) of every attribute that is read; the backends get their section as a mapping of names."""
    found = set()
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            label = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            found.add((label.lstrip("_"), node.attr))
            found |= {(section, node.attr) for section in aliases.get(label, ())}
        elif folder == "model" and isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {(section, node.value) for section in BACKEND_SECTIONS}
    return found


def _aliases(tree: ast.Module) -> dict[str, set[str]]:
    """Names that stand for a section in a file: `edge, sip = settings.sip_edge, settings.sip`."""
    aliases: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target, value = node.targets[0], node.value
        pairs = (
            zip(target.elts, value.elts, strict=False)
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            else [(target, value)]
        )
        for name, source in pairs:
            if isinstance(name, ast.Name) and isinstance(source, ast.Attribute):
                aliases.setdefault(name.id, set()).add(source.attr)
    return aliases


def _is_read(key: str, reads: set[tuple[str, str]]) -> bool:
    section, name = key.split(".")
    owners = {section, "settings", "options"} if section in BACKEND_SECTIONS else {section, "settings"}
    return any((owner, name) in reads for owner in owners)
