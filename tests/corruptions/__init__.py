"""Sound checkpoints of every kind, and damaged copies of them by name, with what verify-ckpt must say of each."""

from __future__ import annotations

from corruptions.damaged_beside import BESIDE
from corruptions.damaged_files import FILES, PLANTED
from corruptions.damaged_foreign import FOREIGN_DAMAGE
from corruptions.damaged_left_out import LEFT
from corruptions.damaged_names import NAMES
from corruptions.damaged_shards import SHARDS
from corruptions.damaged_values import VALUES
from corruptions.files import Damage
from corruptions.foreign import FOREIGN
from corruptions.sound import DERIVED, RUNS, Sound, build_all

__all__ = ["DAMAGED", "DERIVED", "FOREIGN", "PLANTED", "RUNS", "SOUND", "Damage", "Sound", "build_all"]

SOUND = (*RUNS, *FOREIGN, *DERIVED)
DAMAGED: dict[str, Damage] = {**FILES, **NAMES, **VALUES, **BESIDE, **LEFT, **FOREIGN_DAMAGE, **SHARDS}
