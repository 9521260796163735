"""Documents stay true: links lead somewhere, and every command that they show exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from rtc_server.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / name / "README.md" for name in (".", "certs", "examples"))]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHOWN = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(rtc-server .*)$|`(rtc-server [^`]*)`", re.MULTILINE)
MAKE = re.compile(r"(?:^\s*(?:\$ )?|`)make ([a-z0-9-]+)", re.MULTILINE)


def pytest_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=pytest_id)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name} links to {target}"


def commands_of(text: str) -> list[str]:
    """Every `rtc-server ...` shown, without its comment, pipe or redirection."""
    found = [line or inline for line, inline in SHOWN.findall(text)]
    return [re.split(r"\s+(?:#|\||>|&&|\\$)|\s{2,}", command)[0] for command in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=pytest_id)
def test_commands_exist_with_their_options(path: Path) -> None:
    for command in commands_of(path.read_text(encoding="utf-8")):
        check_command(shlex.split(command)[1:], f"{path.name}: {command}")


def check_command(words: list[str], where: str) -> None:
    """Walk down the commands; every option must be known to the last of them."""
    current = typer.main.get_command(app)
    for word in words:
        commands = getattr(current, "commands", {})
        if word.startswith("-"):
            known = {option for parameter in current.params for option in [*parameter.opts, *parameter.secondary_opts]}
            if current.context_settings.get("ignore_unknown_options"):
                continue  # hands them on to another command
            assert word.split("=")[0] in known | {"--help", "-h", "--version"}, f"{where}: no option {word}"
        elif commands and word.isidentifier():
            assert word in commands, f"{where}: no command {word}"
            current = commands[word]


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / ".ci" / "run"], ids=pytest_id)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in MAKE.findall(path.read_text(encoding="utf-8")):
        assert target in targets, f"{path.name} says make {target}"


def test_the_walk_finds_a_wrong_option() -> None:
    with pytest.raises(AssertionError, match="no option --prot"):
        check_command(["serve", "--prot", "1"], "here")
    with pytest.raises(AssertionError, match="no command fech"):
        check_command(["models", "fech"], "here")
    assert commands_of("x `rtc-server doctor`\n$ A=1 rtc-server serve --host x  # note\n") == [
        "rtc-server doctor",
        "rtc-server serve --host x",
    ]
