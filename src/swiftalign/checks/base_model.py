"""The model itself: how ms-swift would load it, and what loading it would run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from swiftalign.config.sections import Config
from swiftalign.model.components import class_of, correction
from swiftalign.model.hub import cached_folder
from swiftalign.model.remote_code import own_code
from swiftalign.model.swift_map import type_named, type_names
from swiftalign.model.swift_templates import template_names, unit_of_template
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem, names
from swiftalign.suggest import did_you_mean


def names_of_swift(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether ms-swift has the type and the template that the user names; a plugin may bring others."""
    if config.handed_through.get("external_plugins") or config.handed_through.get("custom_register_path"):
        return
    model_type, template = config.model.type, config.handed_through.get("template")
    for kind, place, name, known, names_of in (
        ("model type", ("model", "type"), model_type, type_named, type_names),
        ("template", ("data", "template"), template, unit_of_template, template_names),
    ):
        if name and not known(name):
            hint = did_you_mean(name, names_of()) or f"remove {'.'.join(place)}: it is decided by the model's files"
            message = f"{'.'.join(place)}: ms-swift has no {kind} {name!r}"
            yield Problem("swift-name-unknown", message, hint, where=config.where(*place))


def type_and_template(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Ms-swift would ask for both only once training has begun."""
    pairs = plan.swift.candidates
    if not pairs:
        return
    types, where = list(dict.fromkeys(name for name, _ in pairs)), config.source.where
    kind, first = class_of(model.config) or model.model_type, type_named(types[0])
    if first and not first.generates:
        message = f"ms-swift loads {kind} as {types[0]} only, which does not write text"
        fix = {"model": {"path": config.model.path, "type": types[0]}}
        yield Problem("model-type-ambiguous", message, "if you mean that, set it:", fix, where)
        return
    listed = "; ".join(_described(*pair, several=len(types) > 1) for pair in pairs)
    hint = "they differ in the text around question and answer; set the one of the model that yours comes from:"
    if len(types) == 1:
        message = (
            f"ms-swift has several templates for the type {types[0]}, and the model's files don't tell which: {listed}"
        )
        yield Problem("template-ambiguous", message, hint, {"data": {"template": pairs[0][1]}}, where)
    else:
        message = f"ms-swift has several model types for {kind}, and the model's files don't tell which: {listed}"
        fix = {"model": {"path": config.model.path, "type": types[0]}}
        if first and len(first.templates) > 1:
            fix |= {"data": {"template": pairs[0][1]}}
        yield Problem("model-type-ambiguous", message, hint, fix, where)


def _described(model_type: str, template: str, *, several: bool) -> str:
    """A template, of a type if there are several, with published models by which a user knows it."""
    found = type_named(model_type)
    models = found.published(template) if found else ()
    alone = found is not None and len(found.templates) == 1
    name = template if not several else model_type if alone else f"{model_type} with template {template}"
    return f"{name}, as for {names(models, 2)}" if models else name


def remote_code(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Ms-swift trusts any code; here the user decides."""
    source = config.source
    if source.trust_remote_code:
        return
    path = Path(source.path)
    folder = path if path.is_absolute() else cached_folder(source.path, source.revision, source.hub)
    if code := own_code(model.config, folder):
        message = f"model {source.path} has Python code of its own ({code}): training would run it"
        hint = (
            "inspect-params, verify-ckpt and export run none of it, with this setting or without; if you trust the "
            "code, let train and preview-aug run it:"
        )
        fix = {"model": {"path": config.model.path, "trust_remote_code": True}}
        yield Problem("remote-code", message, hint, fix, source.where)


def prefixes(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """What a user of ms-swift alone would run into; here the training processes correct it."""
    if (fault := correction(model.config)) and not fault.unloadable:
        message = f"{class_of(model.config)}: {fault.reason}"
        hint = "training corrects them; `swift sft` by itself goes wrong with freeze flags, vit_lr and aligner_lr"
        yield Problem("swift-prefixes-wrong", message, hint)


def loadable(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Ms-swift would fail once training has begun."""
    if (fault := correction(model.config)) and fault.unloadable:
        message = f"ms-swift can't load a {class_of(model.config)}: {fault.unloadable}"
        hint = "train the model as its authors published it, in an environment with the packages that it needs"
        yield Problem("class-not-loadable", message, hint, where=config.source.where)
