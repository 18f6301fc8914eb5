"""The model card of an export: what it is, how to load it, and how to use the adapter without merging."""

from __future__ import annotations

from pathlib import Path

from swiftalign.exports.outputs import Written
from swiftalign.exports.source import Source
from swiftalign.model.components import class_of
from swiftalign.model.safetensors import read_json


def model_card(source: Source, written: Written, output: Path, part: str) -> str:
    """The card of a part ("model", "aligner" or "adapter") as Markdown text."""
    base, changed = source.base_folder, f"{len(written.changed)} tensors differ from the base"
    if written.rounded:
        changed += f"; {len(written.rounded)} more were trained, but equal it after rounding"
    merged = f"{base.name} with {source.method} merged into it by swiftalign"
    about = {
        "model": f"{merged}.\n{changed}; everything else is the base's own, to the byte.",
        "aligner": f"The aligner of {merged}.\n{changed}.",
        "adapter": f"An adapter for {base.name}, trained by {source.method} and written by swiftalign.",
    }
    origin, reason = source.origin.folder, source.origin.chosen.reason
    made_of = f"Made of `{origin.parent.name}/{origin.name}`" + (f", {reason}." if reason else ".")
    place = output if part == "adapter" else source.checkpoint
    config = read_json(base / "config.json")
    own = next((name for name in reversed(config.get("auto_map") or ()) if name.startswith("AutoModel")), None)
    model_class = own or class_of(config) or "AutoModelForMultimodalLM"
    arguments = 'dtype="auto", trust_remote_code=True' if own else 'dtype="auto"'
    adapter = _ADAPTER.format(model_class=model_class, arguments=arguments, base=str(base), adapter=str(place))
    loading = _LOADING.format(model_class=model_class, arguments=arguments, output=str(output))
    loadable = source.config and (part == "adapter" or source.checkpoint == source.origin.path)
    return f"""---
library_name: transformers
base_model: {base.name}
---

# {output.name}

{about[part]}
{made_of}
`export.json` records base, run, versions and hashes.
{loading if part == "model" else ""}{adapter if loadable else ""}"""


_LOADING = """
```python
from transformers import AutoProcessor, {model_class}

model = {model_class}.from_pretrained({output!r}, {arguments})
processor = AutoProcessor.from_pretrained({output!r})
```
"""
_ADAPTER = """
To use the adapter without merging:

```python
from peft import PeftModel
from transformers import {model_class}

base = {model_class}.from_pretrained({base!r}, {arguments})
model = PeftModel.from_pretrained(base, {adapter!r})
```
"""
