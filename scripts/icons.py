"""The icons of the installed page, drawn from web/favicon.svg by Chromium.

    .venv/bin/python scripts/icons.py

Phones cut a maskable icon to a circle or another shape, and iOS rounds the corners of its own: both get the colour to
the edge, and the drawing inside the safe circle. Run it after changing the drawing, and commit what it writes.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, the helpers of the tests are not found otherwise

from playwright.sync_api import Browser  # noqa: E402

from tests.browser.chromium import chromium  # noqa: E402

WEB = ROOT / "web"
DRAWING = WEB / "favicon.svg"
SAFE_SHARE = 0.8
"""Of the width: the circle that no phone cuts (https://w3c.github.io/manifest/#icon-masks)."""


@dataclass(frozen=True, slots=True)
class Icon:
    """One file: `icons/<name>.png`, `size` pixels square."""

    name: str
    size: int
    is_full: bool
    """Colour to the edge, nothing transparent."""


ICONS = (
    Icon("icon-192", 192, is_full=False),
    Icon("icon-512", 512, is_full=False),
    Icon("maskable-192", 192, is_full=True),
    Icon("maskable-512", 512, is_full=True),
    Icon("apple-touch-icon", 180, is_full=True),
)


def svg_of(icon: Icon, drawing: str) -> str:
    """The drawing as it is, or, for a full icon, on a ground to the edge and inside the safe circle."""
    if not icon.is_full:
        return drawing
    ground = re.search(r'<rect [^>]*fill="(#[0-9a-f]{6})"/>', drawing)
    assert ground is not None, f"{DRAWING} has no ground"
    inside = drawing.replace(ground.group(), "").replace("<svg ", '<svg x="0" y="0" width="32" height="32" ', 1)
    shift = 16.0 * (1.0 - SAFE_SHARE)
    moved = f'<g transform="translate({shift:.2f} {shift:.2f}) scale({SAFE_SHARE})">{inside}</g>'
    full = f'<rect width="32" height="32" fill="{ground.group(1)}"/>{moved}'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{full}</svg>'


def draw(browser: Browser, icon: Icon, drawing: str) -> bytes:
    """The PNG."""
    page = browser.new_page(viewport={"width": icon.size, "height": icon.size}, device_scale_factor=1)
    style = "<style>html, body { margin: 0; background: transparent } svg { display: block; width: 100vw }</style>"
    page.set_content(style + svg_of(icon, drawing))
    png = page.screenshot(omit_background=True)
    page.close()
    return png


def main() -> int:
    """Write them all."""
    drawing = DRAWING.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "none.wav") as browser:
        for icon in ICONS:
            target = WEB / "icons" / f"{icon.name}.png"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(draw(browser, icon, drawing))
            print(target.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
