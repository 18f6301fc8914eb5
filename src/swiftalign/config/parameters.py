"""What all values of a configuration, and the parameters of all augmentation operations, have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Values of a configuration: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Parameters(Strict):
    """Parameters of every operation."""

    prob: Share = Field(1.0, description="share; of the rows, those that the operation changes")
