"""All sections together, and where their values come from: command line, environment, file, defaults.

A name that does not exist is refused with the nearest one that does, so that a typing error cannot silently leave a
default in force.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from rtc_server.errors import ConfigError
from rtc_server.paths import default_config_file

from .calls import AudioSection, SessionSection, TurnsSection, WebRtcSection
from .engine import CascadeSection, EngineSection, ModelsSection, OpenS2SSection
from .kinds import Hidden, Section
from .recording import RecordingSection
from .server import (
    AdmissionSection,
    AuthSection,
    LimitsSection,
    LoggingSection,
    ServerSection,
    SystemSection,
    TracingSection,
)
from .sip import SipSection
from .sip_edge import SipEdgeSection
from .turn import TurnSection

ENV_PREFIX = "RTC_SERVER__"
"""`RTC_SERVER__TURNS__THRESHOLD=0.6` sets `turns.threshold`."""

LOCAL_CONFIG_FILE = Path("config/server.toml")
"""Read from the current folder when no file is named."""

DEFAULT = "default"
COMMAND_LINE = "command line"


class Settings(BaseModel):
    """The effective settings. `Settings()` is all defaults; `load_settings` reads every source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: ServerSection = ServerSection()
    auth: AuthSection = AuthSection()
    limits: LimitsSection = LimitsSection()
    admission: AdmissionSection = AdmissionSection()
    engine: EngineSection = EngineSection()
    models: ModelsSection = ModelsSection()
    cascade: CascadeSection = CascadeSection()
    opens2s: OpenS2SSection = OpenS2SSection()
    session: SessionSection = SessionSection()
    turns: TurnsSection = TurnsSection()
    webrtc: WebRtcSection = WebRtcSection()
    audio: AudioSection = AudioSection()
    recording: RecordingSection = RecordingSection()
    turn: TurnSection = TurnSection()
    sip: SipSection = SipSection()
    sip_edge: SipEdgeSection = SipEdgeSection()
    system: SystemSection = SystemSection()
    logging: LoggingSection = LoggingSection()
    tracing: TracingSection = TracingSection()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)


class SettingsKey(NamedTuple):
    """One key of the settings, for documents and checks."""

    name: str
    """Dotted: "turns.threshold"."""
    section: type[Section]
    field: FieldInfo

    @property
    def is_hidden(self) -> bool:
        """The value must not be shown."""
        return any(isinstance(mark, Hidden) for mark in self.field.metadata)


class Explained(NamedTuple):
    """One effective value and where it came from."""

    key: str
    value: object
    """A hidden one is replaced by how many there are."""
    source: str
    """"default", the file's path, the environment variable's name, or "command line"."""


def settings_keys() -> Iterator[SettingsKey]:
    """Every key, in the order of the file."""
    for section_name, section in _sections().items():
        for name, field in section.model_fields.items():
            yield SettingsKey(f"{section_name}.{name}", section, field)


def load_settings(config_path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Read all sources: `overrides` (dotted keys, from the command line) > environment > file > defaults.

    Without `config_path`, `config/server.toml` of the current folder is read, else the file that ships with
    the server. Raises ConfigError for a missing or broken file, an unknown name or an unusable value; the
    message lists every problem found, each with its source.
    """
    path = config_path or (LOCAL_CONFIG_FILE if LOCAL_CONFIG_FILE.is_file() else default_config_file())
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    layers = (
        ((key, value, str(path)) for key, value in _from_file(path)),
        _from_environment(),
        ((key, value, COMMAND_LINE) for key, value in _from_overrides(overrides or {})),
    )
    for layer in layers:
        for key, value, source in layer:
            values[key], sources[key] = value, source
    settings = _validate(values, sources)
    settings._sources.update(sources)
    return settings


def explain(settings: Settings) -> list[Explained]:
    """Every key with its effective value and its source, in the order of the file."""
    found = []
    for key in settings_keys():
        section, name = key.name.split(".")
        value = getattr(getattr(settings, section), name)
        if key.is_hidden and value:
            value = f"({len(value)} hidden)"
        found.append(Explained(key.name, value, settings._sources.get(key.name, DEFAULT)))
    return found


def _sections() -> dict[str, type[Section]]:
    return {name: type(field.default) for name, field in Settings.model_fields.items()}


def _from_file(path: Path) -> list[tuple[str, object]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {path} is not valid TOML: {error}.") from error
    values, problems = [], []
    for section, table in tables.items():
        if section not in _sections():
            problems.append(f"{path}: there is no section [{section}]{_nearest(section, _sections())}")
        elif not isinstance(table, dict):
            problems.append(f"{path}: {section} is a section; write [{section}] on a line of its own.")
        else:
            values += [(f"{section}.{name}", value) for name, value in table.items()]
    problems += [f"{path}: {problem}" for problem in _unknown(key for key, _ in values)]
    _raise_if_any(problems)
    return values


def _from_environment() -> list[tuple[str, object, str]]:
    values: list[tuple[str, object, str]] = []
    problems = []
    fields = {ENV_PREFIX + key.name.replace(".", "__").upper(): key for key in settings_keys()}
    for variable, text in sorted(os.environ.items()):
        if not variable.upper().startswith(ENV_PREFIX):
            continue
        key = fields.get(variable.upper())
        if key is None:
            problems.append(f"{variable} (environment) sets nothing{_nearest(variable.upper(), fields)}")
        else:
            values.append((key.name, _parse_variable(text, key.field), variable))
    _raise_if_any(problems)
    return values


def _from_overrides(overrides: Mapping[str, object]) -> list[tuple[str, object]]:
    _raise_if_any(list(_unknown(overrides)))
    return list(overrides.items())


def _parse_variable(text: str, field: FieldInfo) -> object:
    """Lists are JSON (`[0, 1]`) or words with commas between (`0,1`), tables JSON; pydantic reads the rest."""
    if not isinstance(field.default, tuple | dict):
        return text
    if isinstance(field.default, dict) or text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text  # refused by the validation, which names the variable
    return [word.strip() for word in text.split(",") if word.strip()]


def _unknown(keys: Iterable[str]) -> Iterator[str]:
    names = [key.name for key in settings_keys()]
    for key in keys:
        if key not in names:
            yield f"there is no key {key}{_nearest(key, names)}"


def _nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message: "; did you mean 'x'?" or the names there are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    if not near and "." in name:  # the right name in the wrong section
        near = [other for other in names if other.split(".")[1] == name.split(".")[-1]][:1]
    return f"; did you mean {near[0]}?" if near else f"; the names are: {', '.join(names)}."


def _validate(values: Mapping[str, object], sources: Mapping[str, str]) -> Settings:
    nested: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        nested.setdefault(section, {})[name] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        problems = [_describe(dict(detail), sources) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from error


def _describe(detail: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"][:2])
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if key not in sources:  # a rule about several keys of one section
        return f"[{key}]: {reason}."
    given = json.dumps(detail["input"], default=str)
    if any(known.name == key and known.is_hidden for known in settings_keys()):
        given = "(hidden)"
    elif len(given) > 80:
        given = given[:80] + "…"
    return f"{key} = {given} ({sources[key]}) cannot be used: {reason[0].lower()}{reason[1:]}."


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))
