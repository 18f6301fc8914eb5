"""Which setting a finding points at."""

from __future__ import annotations

from swiftalign.config.sections import COMPONENTS, NO_TARGETS, Config, TunerSection


def where_given(config: Config, section: str, *keys: str) -> str:
    """``file:line`` of the first of these keys that the file names; of the section where it names none."""
    given = next((key for key in keys if getattr(config, section).given(key)), keys[0])
    return config.where(section, given)


def names_targets(tuner: TunerSection) -> bool:
    """Whether target_regex or target_modules decides what gets adapters, and not the freeze flags."""
    return tuner.target_regex is not None or (
        tuner.target_modules is not None and "all-linear" not in tuner.target_modules
    )


def wants_adapters(tuner: TunerSection) -> bool:
    """Whether target_regex or target_modules asks for adapters, on whatever layer."""
    return names_targets(tuner) and tuner.target_regex not in NO_TARGETS


def target_key(tuner: TunerSection) -> str:
    """The setting that decides what gets adapters, for the place of a finding."""
    if tuner.target_regex is not None:
        return "target_regex"
    if names_targets(tuner):
        return "target_modules"
    flags = (f"freeze_{part}" for part in reversed(COMPONENTS))
    return next((flag for flag in flags if tuner.given(flag)), "train_type")
