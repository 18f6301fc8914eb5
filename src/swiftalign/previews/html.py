"""The HTML page: one file that needs no others, on which targets and variants can be switched on and off."""

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

from swiftalign.previews.strips import Strip


def render_page(strips: Sequence[Strip], heading: str, title: str = "Augmentation preview") -> str:
    """Strips as HTML; labels and file names are data in it, never markup.

    Args:
        heading: line below the title.
        title: title of the page.
    """
    page = files("swiftalign.previews").joinpath("page.html").read_text(encoding="utf-8")
    data: dict[str, Any] = {"title": title, "heading": heading, "strips": []}
    for strip in strips:
        panels = []
        for panel in strip.panels:
            file = io.BytesIO()
            Image.fromarray(panel.image).save(file, "JPEG", quality=90, subsampling=0)
            source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
            panels.append(panel.to_json() | {"source": source})
        data["strips"].append(strip.to_json() | {"image": "/".join(Path(strip.name).parts[-3:]), "panels": panels})
    # The page's policy: nothing is loaded, and nothing runs but the page's own style and script.
    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        page = page.replace(f"%{tag}%", f"sha256-{digest}")
    # Inside <script> only "<" could end the data.
    return page.replace("%data%", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))
