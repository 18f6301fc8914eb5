"""HTML pages: one file each that needs no others, on which targets can be looked at."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from swiftalign.data.images import Pixels
from swiftalign.previews.strips import Strip


def render_page(strips: Sequence[Strip], heading: str, title: str = "Augmentation preview") -> str:
    """Strips as HTML, on which targets and variants can be switched on and off.

    Args:
        heading: line below the title.
        title: title of the page.
    """
    data: dict[str, Any] = {"title": title, "heading": heading, "strips": []}
    for strip in strips:
        panels = [panel.to_json() | {"source": data_url(panel.image)} for panel in strip.panels]
        data["strips"].append(strip.to_json() | {"image": "/".join(Path(strip.name).parts[-3:]), "panels": panels})
    return filled("swiftalign.previews", "page.html", data)


def data_url(image: Pixels) -> str:
    """An image as a JPEG file within a page."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def filled(package: str, name: str, data: dict[str, Any]) -> str:
    """A page of a package with its data; labels and file names are data in it, never markup.

    The page may take in ``common.css`` and ``drawing.js`` of this package, which draw targets over images.
    """
    page = files(package).joinpath(name).read_text(encoding="utf-8")
    for part in ("common.css", "drawing.js"):
        page = page.replace(f"/*%{part}%*/", files("swiftalign.previews").joinpath(part).read_text(encoding="utf-8"))
    # The page's policy: nothing is loaded, and nothing runs but the page's own style and script.
    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        page = page.replace(f"%{tag}%", f"sha256-{digest}")
    # Inside <script> only "<" could end the data.
    return page.replace("%data%", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))
