"""The model card of an export: what it is, how to load it, and how to do without the merge."""

from __future__ import annotations

from pathlib import Path

from swiftalign.export.outputs import Written
from swiftalign.export.source import Source


def model_card(source: Source, written: Written, output: Path) -> str:
    """The card as Markdown text."""
    rounded = f", of {len(written.rounded)} more the change was rounded away" if written.rounded else ""
    adapter = _ADAPTER.format(base=str(source.base), checkpoint=str(source.checkpoint)) if source.adapter else ""
    return f"""---
library_name: transformers
base_model: {source.base.name}
---

# {output.name}

{source.base.name} with {source.method} merged into it by swiftalign.
{len(written.changed)} tensors differ from the base{rounded}; everything else is the base's own, to the byte.
`export.json` records base, run, versions and hashes.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({str(output)!r}, dtype="auto")
processor = AutoProcessor.from_pretrained({str(output)!r})
```
{adapter}"""


_ADAPTER = """
The adapter can also be used without merging:

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base = AutoModelForImageTextToText.from_pretrained({base!r}, dtype="auto")
model = PeftModel.from_pretrained(base, {checkpoint!r})
```
"""
