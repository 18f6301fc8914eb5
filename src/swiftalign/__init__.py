"""Fine-tune the aligner of Qwen3-VL with ms-swift.

The library behind the ``swiftalign`` command: `swiftalign.config` reads a configuration, `swiftalign.modules` a model,
and `swiftalign.plan` turns both into the `TuningPlan` that every command holds to.
"""

__version__ = "0.1.0"
