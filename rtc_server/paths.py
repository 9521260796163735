"""Where the files that ship with the server lie: in a checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from model.weights import default_models_dir

if TYPE_CHECKING:
    from rtc_server.config import Settings

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def web_dir() -> Path:
    """The folder with the page and its static files."""
    return _first(_CHECKOUT / "web", _PACKAGE / "_web")


def default_config_file() -> Path:
    """The settings file that ships with the server: every key with its default."""
    return _first(_CHECKOUT / "config" / "server.toml", _PACKAGE / "_config" / "server.toml")


def sip_dir() -> Path:
    """The folder with what ships for the telephone edge, such as `kamailio.cfg`."""
    return _first(_CHECKOUT / "deploy" / "sip", _PACKAGE / "_sip")


def models_dir(settings: Settings) -> Path:
    """The folder with the embedded models' files: `models.cache_dir`, or the platform's cache."""
    return Path(settings.models.cache_dir).expanduser() if settings.models.cache_dir else default_models_dir()


def _first(checkout: Path, installed: Path) -> Path:
    # A stray folder "web" or "config" beside site-packages/rtc_server is not ours: a checkout has this file too.
    is_checkout = (_CHECKOUT / "pyproject.toml").is_file() and checkout.exists()
    return checkout if is_checkout else installed
