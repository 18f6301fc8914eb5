"""Training whole parameters, without adapters: those of some modules (modules_to_save), or of the model (full)."""

from __future__ import annotations

from swiftalign.methods.base import Method


class ModulesToSave(Method):
    """A run of any train_type whose targets match no layer, so that modules_to_save alone trains."""

    name = "modules_to_save"
    variant_of = "lora"
    spelling = "is lora with target_regex '^$' and modules_to_save; write train_type: lora"
    summary = "the whole aligner trains, everything else is frozen"
    aligner_lr = "1.0e-4"
    demo_lr = "1.0e-3"
    recipe = (
        "train_type: lora\n"
        "target_regex: '^$'   # no adapter layers\n"
        "modules_to_save:   # train whole: merger and deepstack mergers\n"
        "  - model.visual.merger\n"
        "  - model.visual.deepstack_merger_list\n"
    )


class Full(Method):
    """The parameters of every component that no freeze flag holds."""

    name = "full"
