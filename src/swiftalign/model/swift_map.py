"""Ms-swift's map of models, read from its sources: its types, their classes and templates, and where components lie.

Importing ms-swift takes seconds and loads torch, so its registrations are parsed instead; no code of it runs.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from swiftalign.model.tree import Architecture
from swiftalign.problems import ModelError

_REGISTRATION = re.compile(r"^register_model\(.*?(?=^[^\s)]|\Z)", re.MULTILINE | re.DOTALL)

# The files of ms-swift's constants, by the ends of their classes' names, e.g. ``MLLMTemplateType``.
_CONSTANTS = {
    "ModelType": "model/constant.py",
    "TemplateType": "template/constant.py",
    "ModelArch": "model/model_arch.py",
}


@dataclass(frozen=True)
class SwiftType:
    """One of ms-swift's model types.

    Attributes:
        name: ms-swift's ``model_type``, which need not be that of the model's config.json.
        architecture: name of the `Architecture` that says where the components lie; None for a model without one.
        classes: the model classes, as in ``architectures`` of config.json.
        template: the template of all of its models; None where it depends on the model.
        models: the last part of a published model's id -> its template, where it is not the type's.
        task: ms-swift's ``task_type``, where it is set.
        loader: the class of ms-swift that loads the models.
    """

    name: str
    architecture: str | None
    classes: tuple[str, ...]
    template: str | None
    models: dict[str, str | None]
    task: str | None = None
    loader: str | None = None

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates that its models have, the type's own first."""
        return tuple(dict.fromkeys(each for each in (self.template, *self.models.values()) if each))

    @property
    def generates(self) -> bool:
        """Whether its models write text; ms-swift does not set the task of each embedding model and reranker."""
        return self.task is None and not re.search(r"_(emb|embedding|gme|reranker)$", self.name)

    def published(self, template: str | None = None) -> tuple[str, ...]:
        """Names of its published models, all or those of a template."""
        return tuple(name for name, own in self.models.items() if template in (None, own or self.template))


def types_of_class(model_class: str) -> list[SwiftType]:
    """The types of a model class, in ms-swift's order."""
    return [each for each in _types_that_mention(model_class) if model_class in each.classes]


def type_of_model(path: str) -> tuple[SwiftType, str | None] | None:
    """The type and the template of a published model, by its folder's name or its id, as ms-swift finds them."""
    name = model_name(path).lower()
    found = ((each, model) for each in _types_that_mention(name) for model in each.models if model.lower() == name)
    return next(((each, each.models[model] or each.template) for each, model in found), None)


def type_named(name: str) -> SwiftType | None:
    """The type of this name."""
    return next((each for each in _types_that_mention(name) if each.name == name), None)


def model_name(path: str) -> str:
    """The name by which ms-swift knows a model: the last part of its id or folder, also in the caches of hub clients.

    >>> model_name("/cache/models--Qwen--Qwen3-VL-2B-Instruct/snapshots/0123"), model_name("Qwen/Qwen3-VL-2B-Instruct/")
    ('Qwen3-VL-2B-Instruct', 'Qwen3-VL-2B-Instruct')
    """
    path = path.rstrip("/")
    cached = re.search(r"/models(?:--|/)(?:.+?--)?(.+?)/snapshots/", path)
    return cached[1] if cached else path.rsplit("/", 1)[-1].replace("___", ".")


@cache
def type_names() -> tuple[str, ...]:
    """The names of all types, those for text alone among them."""
    return tuple(each.name for each in _types_that_mention(""))


@cache
def architecture(name: str | None) -> Architecture | None:
    """Where the components of an architecture lie; None for one without a multimodal map."""
    return _architectures().get(name or "")


@cache
def _types_that_mention(text: str) -> tuple[SwiftType, ...]:
    """The types in whose registration a text occurs, in any case."""
    return tuple(_type(call) for call in _registrations() if text.lower() in call.lower())


@cache
def _registrations() -> tuple[str, ...]:
    """The source of each ``register_model(...)``."""
    found = tuple(match[0] for text in sources("model/models/*.py") for match in _REGISTRATION.finditer(text))
    if not found:
        raise ModelError(f"{_folder()}: no model types of ms-swift found", "install ms-swift again: it is incomplete")
    return found


def _type(source: str) -> SwiftType:
    call = ast.parse(source).body[0].value.args[0]  # type: ignore[attr-defined]
    given = dict(zip(("model_type", "model_groups", "loader", "template", "model_arch"), call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords}
    models: dict[str, str | None] = {}
    for group in (node for node in ast.walk(given["model_groups"]) if _calls(node, "ModelGroup")):
        named = {keyword.arg: keyword.value for keyword in group.keywords}
        template = _value(named.get("template", group.args[1] if len(group.args) > 1 else None))
        for model in (node for node in ast.walk(group) if _calls(node, "Model")):
            ids = [_value(argument) for argument in (*model.args, *(keyword.value for keyword in model.keywords))]
            models |= {each.rsplit("/", 1)[-1]: template for each in ids if isinstance(each, str)}
    return SwiftType(
        name=str(_value(given["model_type"])),
        architecture=_value(given.get("model_arch")),
        classes=tuple(_value(given.get("architectures")) or ()),
        template=_value(given.get("template")),
        models=models,
        task=_value(given.get("task_type")),
        loader=loader.id if isinstance(loader := given.get("loader"), ast.Name) else None,
    )


@cache
def _architectures() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    module = ast.parse((_folder() / "model/model_arch.py").read_text(encoding="utf-8"))
    for call in (node for node in _run(module.body) if _calls(node, "register_model_arch")):
        keys = call.args[0]
        if not _calls(keys, "MultiModelKeys"):
            continue
        given = dict(zip(("arch_name",), keys.args, strict=False)) | {each.arg: each.value for each in keys.keywords}
        parts = {
            part: tuple([prefixes] if isinstance(prefixes := _value(given.get(part)) or [], str) else prefixes)
            for part in ("language_model", "vision_tower", "aligner", "generator")
        }
        name = str(_value(given["arch_name"]))
        found[name] = Architecture(
            name, parts["language_model"], parts["vision_tower"], parts["aligner"], parts["generator"]
        )
    return found


def _run(body: list[ast.stmt]) -> Iterator[Any]:
    """The expressions that a module's code runs: its conditions ask for old releases of transformers."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _run(statement.body)
        elif isinstance(statement, ast.Expr):
            yield statement.value


def _calls(node: Any, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _value(node: Any) -> Any:
    """The value of a literal, or of a list of them, or of a constant of ms-swift."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # e.g. MLLMModelType.qwen2_5_vl
        files = (file for end, file in _CONSTANTS.items() if node.value.id.endswith(end))
        return next((constants(file).get(node.attr) for file in files), None)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    return node.value if isinstance(node, ast.Constant) else None


def sources(pattern: str) -> list[str]:
    """The texts of those of ms-swift's files whose paths match, in their order."""
    return [file.read_text(encoding="utf-8") for file in sorted(_folder().glob(pattern))]


@cache
def constants(file: str) -> dict[str, str]:
    """The constants of one of ms-swift's files."""
    return dict(re.findall(r"^    (\w+) = '([^']+)'", (_folder() / file).read_text(encoding="utf-8"), re.MULTILINE))


@cache
def _folder() -> Path:
    package = importlib.util.find_spec("swift")  # imports nothing
    if package is None or package.origin is None:
        raise ModelError("ms-swift is not installed", "pip install ms-swift")
    return Path(package.origin).parent
