"""The model card of an export: what it is, how to load it, and how to do without the merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swiftalign.export.source import Source

if TYPE_CHECKING:
    from swiftalign.export.export import ExportReport


def model_card(report: ExportReport, source: Source) -> str:
    """The card as Markdown text."""
    rounded = f", of {len(report.rounded)} more the change was rounded away" if report.rounded else ""
    adapter = _adapter(source) if source.adapter else ""
    return f"""---
library_name: transformers
base_model: {source.base.name}
---

# {report.output.name}

{source.base.name} with {source.method} merged into it by swiftalign.
{len(report.changed)} tensors differ from the base{rounded}; everything else is the base's own, to the byte.
`export.json` records base, run, versions and hashes.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({str(report.output)!r}, dtype="auto")
processor = AutoProcessor.from_pretrained({str(report.output)!r})
```
{adapter}"""


def _adapter(source: Source) -> str:
    return f"""
The adapter can also be used without merging:

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base = AutoModelForImageTextToText.from_pretrained({str(source.base)!r}, dtype="auto")
model = PeftModel.from_pretrained(base, {str(source.checkpoint)!r})
```
"""
