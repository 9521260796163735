"""Writes `config/server.toml` and the tables of `docs/configuration.md` from `rtc_server.config`.

    python -m scripts.configuration           write both
    python -m scripts.configuration --check   only say whether they are up to date (exit code 1 if not)

Run it after changing a setting; a test compares.
"""

from __future__ import annotations

import json
import sys
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo

from rtc_server.config import ENV_PREFIX, Section, SettingsKey, settings_keys

ROOT = Path(__file__).resolve().parent.parent
CONFIG_FILE = ROOT / "config" / "server.toml"
DOCUMENT = ROOT / "docs" / "configuration.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
WIDTH = 110

HEADER = f"""\
# Settings of rtc-server: every key with its default. Written by `python -m scripts.configuration`.
#
# A flag of `rtc-server serve` or a variable such as {ENV_PREFIX}TURNS__THRESHOLD=0.6 wins over this file;
# `rtc-server config` prints what is in force and where each value came from. Keys may be left out.
"""


def config_file_text() -> str:
    """The whole text of `config/server.toml`."""
    parts = [HEADER]
    for name, keys in _by_section():
        parts.append(f"\n[{name}]\n{_comment(_summary(keys[0].section))}")
        for key in keys:
            parts.append(f"\n{_comment(_meaning(key))}{_name(key)} = {toml_value(key.field.default)}\n")
    return "".join(parts)


def document_tables() -> str:
    """The generated part of `docs/configuration.md`."""
    parts = []
    for name, keys in _by_section():
        parts.append(f"## `[{name}]`\n\n{_summary(keys[0].section)}\n\n")
        parts.append("| key | default | allowed | meaning |\n|---|---|---|---|\n")
        for key in keys:
            cells = [f"`{_name(key)}`", f"`{toml_value(key.field.default)}`", allowed(key.field), _meaning(key)]
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
        parts.append("\n")
    return "".join(parts)


def document_text(current: str) -> str:
    """`current` with its generated part replaced."""
    before, rest = current.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n{document_tables()}{END}{after}"


def toml_value(value: object) -> str:
    """A default as TOML: strings, numbers, booleans, flat lists and the empty table, which JSON writes the same way."""
    return json.dumps(value, ensure_ascii=False)


def allowed(field: FieldInfo) -> str:
    """The type and range of a key, for people."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in get_args(field.annotation))
    if isinstance(field.default, tuple):
        return "list of numbers" if field.annotation and "int" in str(field.annotation) else "list of strings"
    if isinstance(field.default, dict):
        return "table of strings"
    kind = {bool: "true, false", int: "whole number", float: "number", str: "text"}[type(field.default)]
    limits = [_limit(rule) for rule in field.metadata]
    return " ".join([kind, *filter(None, limits)])


def _limit(rule: object) -> str:
    match rule:
        case Ge(ge=bound):
            return f"from {bound}"
        case Gt(gt=bound):
            return f"above {bound}"
        case Le(le=bound):
            return f"to {bound}"
        case Lt(lt=bound):
            return f"below {bound}"
        case MaxLen(max_length=length):
            return f"up to {length} characters"
        case MinLen():
            return "(not empty)"
        case _:
            return ""


def _by_section() -> list[tuple[str, list[SettingsKey]]]:
    groups = groupby(settings_keys(), key=lambda key: key.name.split(".")[0])
    return [(name, list(keys)) for name, keys in groups]


def _name(key: SettingsKey) -> str:
    return key.name.split(".")[1]


def _summary(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def _meaning(key: SettingsKey) -> str:
    return " ".join((key.field.description or "").split())


def _comment(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n"


def main(arguments: list[str]) -> int:
    """Write both files, or check them. Returns the exit code."""
    wanted = {CONFIG_FILE: config_file_text(), DOCUMENT: document_text(DOCUMENT.read_text(encoding="utf-8"))}
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" not in arguments:
            path.write_text(wanted[path], encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'is out of date' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
