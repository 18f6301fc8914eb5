"""The page: one HTML file that needs nothing beside it, and on which targets and variants can be switched."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from PIL import Image

from swiftalign.preview.strips import Panel, Strip

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def render_page(strips: Sequence[Strip], heading: str) -> str:
    """Strips as HTML; labels and file names are data there, never markup.

    Args:
        heading: what is shown, in one line.
    """
    page = files("swiftalign.preview").joinpath("page.html").read_text(encoding="utf-8")
    data = {"heading": heading, "strips": [_strip(strip) for strip in strips]}
    # Inside <script> only "<" could end the data.
    written = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return page.replace("%POLICY%", _policy(page)).replace("%DATA%", written)


def _policy(page: str) -> str:
    """Nothing is loaded, and nothing runs but this page's own script."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(_STYLE, page)}'",
            f"script-src '{_digest(_SCRIPT, page)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _digest(pattern: re.Pattern[str], page: str) -> str:
    [text] = pattern.findall(page)
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _strip(strip: Strip) -> dict[str, Any]:
    panels = [panel.to_json() | {"source": _data_uri(panel)} for panel in strip.panels]
    return strip.to_json() | {"image": "/".join(strip.path.parts[-3:]), "panels": panels}


def _data_uri(panel: Panel) -> str:
    file = io.BytesIO()
    Image.fromarray(panel.image).save(file, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
