"""Training whole parameters, without adapters: those of some modules (modules_to_save), or of the model (full)."""

from __future__ import annotations

from swiftalign.methods.base import ALIGNER_WHOLE, Method


class ModulesToSave(Method):
    """A run of any train_type whose targets match no layer, so that modules_to_save alone trains."""

    name = "modules_to_save"
    variant_of = "lora"
    spelling = "is lora with target_regex '^$' and modules_to_save; write train_type: lora"
    summary = "the whole aligner trains, everything else is frozen"
    aligner_lr = "1.0e-4"
    demo_lr = "1.0e-3"
    recipe = f"train_type: lora\ntarget_regex: '^$'   # no adapter layers\n{ALIGNER_WHOLE}"


class Full(Method):
    """The parameters of every component that no freeze flag holds."""

    name = "full"
