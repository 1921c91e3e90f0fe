"""Options of attacks, defenses and other components: declared by their annotations, checked in one place.

An option is a field of a frozen dataclass that derives from `Declared`. Its annotation says what it may be: a type,
`Literal["a", "b"]`, one of the bounded numbers below, `None` besides, a sequence of these. `Declared.__post_init__`
checks all of them, however the object is made; rules that tie options together follow in the class's own
`__post_init__`, after `super().__post_init__()`.

An annotation is `Any` here: typing has no type that classes, unions, `Literal` and `Annotated` are all of.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from raysim.errors import ConfigError, nearest_name

Method = TypeVar("Method")

Count = Annotated[int, Ge(0)]
"""An option that is a whole number, at least 0."""
PositiveInt = Annotated[int, Ge(1)]
"""An option that is a whole number, at least 1."""
AtLeastTwo = Annotated[int, Ge(2)]
"""An option that is a whole number, at least 2."""
NotNegative = Annotated[float, Ge(0)]
"""An option that is a finite number, at least 0."""
Positive = Annotated[float, Gt(0)]
"""An option that is a finite number above 0."""
Fraction = Annotated[float, Ge(0), Le(1)]
"""An option that is a number in [0, 1], both ends allowed."""
PositiveFraction = Annotated[float, Gt(0), Le(1)]
"""An option that is a number in (0, 1]: 0 is not allowed."""

NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


@dataclass(frozen=True)
class Declared:
    """Base of everything that has options: an object whose options break their own rules cannot be made."""

    def __post_init__(self) -> None:
        """Raise ConfigError for the first option that its annotation does not allow."""
        for name, annotation in option_annotations(type(self)).items():  # type: ignore[arg-type]
            default = self.__dataclass_fields__[name].default
            check_option(name, annotation, getattr(self, name), default)


def construct(cls: type[Method], options: Mapping[str, object]) -> Method:
    """An object of the dataclass `cls`, its options as a file or the command line gives them.

    What a text or a whole number stands for is taken as such (`"1e-3"` for a float, a list for a tuple). ConfigError
    for what an annotation does not allow, for an option that is missing, and for what the class itself refuses or
    fails at.
    """
    annotations = option_annotations(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    held: dict[str, object] = {}
    for name, field in fields.items():
        if name in options:
            held[name] = _converted(annotations[name], options[name])
            check_option(name, annotations[name], held[name], field.default)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(name, f"must be given, and {rule(annotations[name])}")
    try:
        return cls(**held)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            next(iter(held), cls.__name__), str(error), next(iter(held.values()), None)
        ) from error
    except (Exception, SystemExit) as error:
        fails = f"{cls.__name__} fails with {type(error).__name__}: {error}"
        raise ConfigError("name", f"must be the name of what can be made; {fails}", held) from error


@functools.cache
def option_annotations(cls: type) -> Mapping[str, Any]:
    """Name -> annotation of each option of a dataclass, in order.

    An annotation that names what exists for type checkers alone becomes `Any`: it carries no rule.
    """
    modules = [
        vars(sys.modules[base.__module__]) for base in reversed(cls.__mro__) if base.__module__ in sys.modules
    ]
    known = {name: value for module in modules for name, value in module.items()}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.init:
            found[field.name] = _resolved(field.name, field.type, known)
    return types.MappingProxyType(found)


def _resolved(name: str, annotation: Any, known: Mapping[str, object]) -> Any:
    """What an annotation written as text stands for; `Any` if that exists for type checkers alone."""
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return get_type_hints(holder, dict(known), include_extras=True)[name]
    except NameError:
        return Any


def arguments(
    call: Callable[..., object], options: Mapping[str, object], prefix: str = ""
) -> dict[str, object]:
    """Options for a function, or a class that is called, as its annotations hold them; ConfigError as for `construct`.

    prefix: put before the key of an error. A parameter without an annotation takes anything, and its default is allowed.
    """
    annotations, parameters = call_annotations(call), inspect.signature(call).parameters
    held = dict(options)
    for name, value in options.items():
        default = parameters[name].default
        if name in annotations and (type(value), value) != (type(default), default):
            held[name] = _converted(annotations[name], value)
            check_option(prefix + name, annotations[name], held[name], default)
    return held


def call_annotations(call: Callable[..., object]) -> Mapping[str, Any]:
    """Parameter -> annotation of a function, or of a class that is called."""
    function = vars(call).get("__init__") if isinstance(call, type) else call
    known = vars(sys.modules.get(getattr(function, "__module__", ""), types))
    given = getattr(function, "__annotations__", {})
    return {
        name: _resolved(name, annotation, known) for name, annotation in given.items() if name != "return"
    }


def check_option(key: str, annotation: object, value: object, default: object = dataclasses.MISSING) -> None:
    """ConfigError if the annotation does not allow the value; a number that is not finite only as the default."""
    if isinstance(value, float) and not math.isfinite(value) and value == default:
        return
    item = _item(annotation)
    if item is not None and isinstance(value, list | tuple | np.ndarray):
        for number, part in enumerate(value):
            check_option(f"{key}.{number}", item, part)
        return
    if _allows(annotation, value):
        return
    if isinstance(value, bool | np.bool_) and _kinds(annotation) & {int, float}:
        raise ConfigError(key, "must be a number, not a boolean", bool(value))
    if isinstance(value, Real) and not math.isfinite(value):
        raise ConfigError(
            key, "must be a finite number", value, _nearest(annotation, value, dataclasses.MISSING)
        )
    raise ConfigError(key, f"must {rule(annotation, value)}", value, _nearest(annotation, value, default))


def _converted(annotation: Any, value: object) -> object:
    """The value as the annotation's type holds it; as it came if it cannot be held so, for `check_option` to refuse.

    A boolean is left as it is: it stands for no number.
    """
    if isinstance(value, np.generic):
        value = value.item()
    parts = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, bool | np.bool_) for part in parts) and bool not in _kinds(annotation):
        return value
    try:
        return TypeAdapter(_unbounded(annotation)).validate_python(value)
    except ValidationError:
        return value


def _unbounded(annotation: Any) -> Any:
    """The annotation without bounds on its numbers."""
    bare, _ = _split(annotation)
    if (parts := members(bare)) != (bare,):
        return Union[tuple(map(_unbounded, parts))]  # noqa: UP007 (made from a tuple)
    if (item := _item(bare)) is not None:
        return get_origin(bare)[(_unbounded(item), ...) if get_origin(bare) is tuple else _unbounded(item)]
    return bare


def rule(annotation: object, value: object = 0) -> str:
    """What an annotation asks for, to follow "must": `be at least 1, or null`; of a number also the kind, which the
    value does not have: `be a whole number, at least 1`.
    """
    alternatives = [_rule(part, value) for part in members(annotation) if part is not type(None)]
    words = ", or ".join(dict.fromkeys(alternatives))
    return f"{words}, or null" if type(None) in members(annotation) else words


def allowed(annotation: Any) -> str:
    """What an annotation allows, for a table; empty if it says no more than the type.

    >>> allowed(PositiveInt | None), allowed(Fraction), allowed(Literal["batch", "group"]), allowed(int)
    ('at least 1', '[0, 1]', 'batch, group', '')
    """
    found = []
    for part in members(annotation):
        bare, bounds = _split(part)
        if get_origin(bare) is Literal:
            found.append(", ".join(map(str, get_args(bare))))
        elif bounds:
            found.append(_rule(part, bare()).removeprefix("be ").removeprefix("lie in "))
        elif (item := _item(bare)) is not None and allowed(item):
            found.append(f"each {allowed(item)}")
    return ", or ".join(found)


def type_name(annotation: Any) -> str:
    """The bare type of an option as people read it: `int or null`, `name`, `list of int`."""
    names = []
    for part in members(annotation):
        bare, _ = _split(part)
        if bare is type(None):
            names.append("null")
        elif get_origin(bare) is Literal:
            names.append("name" if all(isinstance(choice, str) for choice in get_args(bare)) else "int")
        elif (item := _item(bare)) is not None:
            names.append(f"list of {type_name(item)}")
        elif get_origin(bare) is tuple:
            names.append(f"[{', '.join(map(type_name, get_args(bare)))}]")
        else:
            names.append("" if bare in (object, Any) else getattr(bare, "__name__", str(bare)))
    return " or ".join(dict.fromkeys(names))


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the annotation itself if it is not a union."""
    if get_origin(annotation) is Annotated and not _split(annotation)[1]:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in members(part))
    return (annotation,)


def _split(annotation: Any) -> tuple[Any, tuple[object, ...]]:
    """The bare type, and the bounds on it; what else is annotated, such as documentation, is not a bound."""
    if get_origin(annotation) is Annotated:
        bare, *notes = get_args(annotation)
        return bare, tuple(note for note in notes if isinstance(note, Ge | Gt | Le | Lt))
    return annotation, ()


def _item(annotation: Any) -> Any:
    """What a sequence is made of; None if the annotation allows no sequence of one kind."""
    for part in members(annotation):
        bare, _ = _split(part)
        args = get_args(bare)
        if get_origin(bare) in (list, Sequence) or (get_origin(bare) is tuple and args[1:] == (Ellipsis,)):
            return args[0]
    return None


def _kinds(annotation: Any) -> set[Any]:
    return {_split(part)[0] for part in members(annotation)}


def _allows(annotation: object, value: object) -> bool:
    return any(_allows_one(*_split(part), value) for part in members(annotation))


def _allows_one(bare: object, bounds: tuple[object, ...], value: object) -> bool:
    if bare is type(None):
        return value is None
    if get_origin(bare) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(bare))
    if bare is bool:
        return isinstance(value, bool | np.bool_)
    if bare is int or bare is float:
        kind = Integral if bare is int else Real
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            return False
        return all(_within(bound, value) for bound in bounds)
    if bare is str:
        return isinstance(value, str)
    return _item(bare) is None or (isinstance(value, Sequence) and not isinstance(value, str))


def _within(bound: object, value: Any) -> bool:
    match bound:
        case Ge(ge=limit):
            return bool(value >= limit)
        case Gt(gt=limit):
            return bool(value > limit)
        case Le(le=limit):
            return bool(value <= limit)
        case Lt(lt=limit):
            return bool(value < limit)
    return True


def _rule(annotation: Any, value: object) -> str:
    bare, bounds = _split(annotation)
    if bounds and not _allows_one(bare, (), value):
        return f"be {NAMES[bare]}, {_rule(annotation, bare()).removeprefix('be ')}"
    if get_origin(bare) is Literal:
        return f"be one of {', '.join(map(str, sorted(get_args(bare))))}"
    low = next((bound for bound in bounds if isinstance(bound, Ge | Gt)), None)
    high = next((bound for bound in bounds if isinstance(bound, Le | Lt)), None)
    least = getattr(low, "ge", getattr(low, "gt", None))
    most = getattr(high, "le", getattr(high, "lt", None))
    if low and high:
        return f"lie in {'[' if isinstance(low, Ge) else '('}{least}, {most}{']' if isinstance(high, Le) else ')'}"
    if low:
        return f"be {'at least' if isinstance(low, Ge) else 'above'} {least}"
    if high:
        return f"be {'at most' if isinstance(high, Le) else 'below'} {most}"
    item = _item(bare)
    return f"be a list of {type_name(item)}" if item is not None else f"be {NAMES.get(bare, bare)}"


def _nearest(annotation: Any, value: object, default: object) -> object:
    """The bound that a value is beyond, the name it resembles; else the default, if that is one to offer."""
    between = isinstance(value, float) and math.isfinite(value) and int in _kinds(annotation)
    if between and _allows(annotation, whole := round(cast(float, value))):
        return whole
    for bare, bounds in map(_split, members(annotation)):
        if get_origin(bare) is Literal and isinstance(value, str):
            return nearest_name(value, [choice for choice in get_args(bare) if isinstance(choice, str)])
        if isinstance(value, Real):
            for bound in bounds:
                if isinstance(bound, Ge | Le) and not _within(bound, value):
                    limit = getattr(bound, "ge", getattr(bound, "le", None))
                    return bare(limit) if bare in (int, float) else limit
    return None if default is dataclasses.MISSING else default
