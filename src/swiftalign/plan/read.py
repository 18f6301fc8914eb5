"""Reading the model that a configuration names."""

from __future__ import annotations

from swiftalign.config.sections import Config
from swiftalign.model.read import read
from swiftalign.model.tree import Model


def read_model(config: Config) -> Model:
    """The configuration's model, without its weights.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    return read(config.source)
