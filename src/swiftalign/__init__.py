"""Fine-tune the aligner of a vision-language model with ms-swift.

The library behind the ``swiftalign`` command::

    from swiftalign import load_config, preflight, read_model, resolve, train

    config = load_config("stage4.yaml")
    model = read_model(config)
    plan = resolve(config, model)
    problems = preflight(config, model, plan)
    result = train(config)

Each function is imported when it is first used, so that ``import swiftalign`` stays light.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("swiftalign needs Linux, whose locks and signals it uses; on Windows, install it in WSL")

# Where DeepSpeed is installed and there is no GPU, accelerate imports it, and it says so on the standard output.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())

if TYPE_CHECKING:
    from swiftalign.checkpoint.verify import verify as verify
    from swiftalign.checks.preflight import preflight as preflight
    from swiftalign.config.load import load_config as load_config
    from swiftalign.exports.export import export as export
    from swiftalign.plan.read import read_model as read_model
    from swiftalign.plan.resolve import resolve as resolve
    from swiftalign.previews.preview import preview as preview
    from swiftalign.runs.train import train as train

__version__ = "0.2.0"

_HOMES = {
    "load_config": "config.load",
    "read_model": "plan.read",
    "resolve": "plan.resolve",
    "preflight": "checks.preflight",
    "train": "runs.train",
    "verify": "checkpoint.verify",
    "export": "exports.export",
    "preview": "previews.preview",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'swiftalign' has no attribute {name!r}")
    return getattr(import_module(f"swiftalign.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
