"""What options mean, read where they are written.

An option of a dataclass has a string under its field (PEP 257's attribute docstrings, which Python itself forgets); an
option of a function has `annotated_types.doc(...)` in its annotation. Nothing is imported or run for it but what holds
the option.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, get_args, get_origin

from raysim.options import allowed, call_annotations, option_annotations, type_name


@dataclass(frozen=True)
class Option:
    """One option in words: name, kind of value, default as YAML writes it ("required" without one), what it may be,
    what it means ("" if nothing says so).
    """

    name: str
    kind: str
    default: str
    range: str
    meaning: str


def attribute_docs(cls: type) -> dict[str, str]:
    """Attribute -> the string under it, in one line, for the class and its bases; the nearest class decides.

    Empty if there is no source: of a class typed at a prompt, say.

    >>> attribute_docs(Option)
    {}
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not object:
            found |= _own_attribute_docs(base)
    return found


def options_of_class(cls: type) -> tuple[Option, ...]:
    """The options of a dataclass: its fields that can be set, in order."""
    meanings, annotations = attribute_docs(cls), option_annotations(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return tuple(
        _option(
            name,
            annotation,
            _default(fields[name]),
            meanings.get(name, ""),
        )
        for name, annotation in annotations.items()
    )


def options_of_call(call: Callable[..., object], names: Iterable[str]) -> tuple[Option, ...]:
    """Those parameters of a function, or of a class that is called, in the order of `names`."""
    parameters = inspect.signature(call).parameters
    annotations = call_annotations(call)
    return tuple(
        _option(
            name,
            annotation := annotations.get(name, object),
            dataclasses.MISSING
            if parameters[name].default is inspect.Parameter.empty
            else parameters[name].default,
            _doc(annotation),
        )
        for name in names
    )


def _option(name: str, annotation: object, default: object, meaning: str) -> Option:
    shown = "required" if default is dataclasses.MISSING else written(default)
    return Option(name, type_name(annotation), shown, allowed(annotation), meaning)


def _default(field: dataclasses.Field[object]) -> object:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def written(value: object) -> str:
    """A value as a configuration writes it.

    >>> written(None), written(True), written((1, 28, 28)), written(1e-5), written("batch")
    ('null', 'true', '[1, 28, 28]', '1e-05', 'batch')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


def _doc(annotation: object) -> str:
    """What the annotation says of the parameter."""
    if get_origin(annotation) is not Annotated:
        return ""
    return next(
        (str(part.documentation) for part in get_args(annotation) if hasattr(part, "documentation")), ""
    )


@cache
def _own_attribute_docs(cls: type) -> dict[str, str]:
    try:
        lines, _ = inspect.findsource(cls)
    except (OSError, TypeError):
        return {}
    node: ast.AST | None = ast.parse("".join(lines))
    for part in cls.__qualname__.replace(".<locals>", "").split("."):
        node = node and _defined(node, part)
    if not isinstance(node, ast.ClassDef):
        return {}
    found = {}
    for above, below in zip(node.body, node.body[1:], strict=False):
        target = above.targets[0] if isinstance(above, ast.Assign) else getattr(above, "target", None)
        if (
            isinstance(target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[target.id] = " ".join(below.value.value.split())
    return found


def _defined(node: ast.AST, name: str) -> ast.AST | None:
    """The last class or function of that name inside the node: what the name stands for after the module ran."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        item for item in ast.walk(node) if isinstance(item, kinds) and item.name == name and item is not node
    ]
    outermost = min((item.col_offset for item in found), default=0)
    return next((item for item in reversed(found) if item.col_offset == outermost), None)
