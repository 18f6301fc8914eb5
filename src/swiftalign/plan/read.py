"""Reading the model that a configuration names."""

from __future__ import annotations

from swiftalign.config.sections import Config
from swiftalign.model.read import read
from swiftalign.model.tree import Model


def read_model(config: Config) -> Model:
    """The configuration's model, without its weights: the name, kind, shape and dtype of each module.

    They come from the model's config.json and, in a folder, from the headers of its weight files. No weight is loaded,
    and no code that comes with the model runs. A hub id needs a network, unless the published sizes of its family are
    known here.

    Args:
        config: names the model as a folder or a hub id (``model``).

    Returns:
        The model, from which `resolve` makes a plan.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    return read(config.source)
