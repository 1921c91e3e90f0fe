"""Networks of a user's own: a module, its class, or a function that builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from raysim.errors import ConfigError, unknown_name
from raysim.models.factory import ModelFactory, ModuleFactory, find_layers
from raysim.options import arguments as checked_arguments
from raysim.rng import torch_randomness

FACTS = ("num_classes", "input_shape")
"""What a class or function is told, if it has parameters of these names."""


@dataclass(frozen=True)
class CalledFactory:
    """A picklable recipe that calls a class or function; a `raysim.models.factory.ModelFactory`."""

    call: Callable[..., nn.Module]
    arguments: dict[str, object] = field(repr=False)
    seed: int = 0
    num_classes: int = 0
    input_shape: tuple[int, ...] = ()
    cam_layer: str = ""
    head: str = ""

    def build(self) -> nn.Module:
        """The network with its initial parameters, the same every time."""
        with torch_randomness(self.seed, "model"):
            return self.call(**self.arguments)


def options_of(call: Callable[..., object]) -> tuple[str, ...]:
    """The options that a class or function takes beside FACTS."""
    parameters = inspect.signature(call).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in parameters if p.kind in kinds and p.name not in FACTS)


def factory_of(
    model: object, options: Mapping[str, object], *, num_classes: int, input_shape: tuple[int, ...], seed: int
) -> tuple[ModelFactory, nn.Module]:
    """(the factory, the network it builds) of a module, a class or function, or an object that is a factory already.

    A module is copied with its values. A class or function is called with the options, and with `num_classes` and
    `input_shape` if it takes them. The last convolution and the last nn.Linear are what defenses look at, unless
    the network's text attributes `cam_layer` and `head` name others. ConfigError for an unknown option, and for
    anything that makes no module.
    """
    if isinstance(model, nn.Module):
        if options:
            raise ConfigError("model", "must be a class or function if options are given", sorted(options))
        cam_layer, head = layers_of(model)
        if head:
            return ModuleFactory(model, cam_layer, head), model
        return CalledFactory(_Copy(model), {}, seed, num_classes, input_shape, cam_layer, head), model
    if all(hasattr(model, part) for part in ("build", "cam_layer", "head", "num_classes")) and not isinstance(
        model, type
    ):
        factory = cast(ModelFactory, model)
        return factory, factory.build()
    if not callable(model):
        rule = "must be a torch module, its class, a function that builds it, or a factory"
        raise ConfigError("model", rule, type(model).__name__)
    known = options_of(model)
    for option in options:
        if option not in known:
            raise unknown_name(f"model.{option}", option, known)
    taken = inspect.signature(model).parameters
    facts = {"num_classes": num_classes, "input_shape": input_shape}
    known_facts = {key: value for key, value in facts.items() if key in taken}
    arguments = {**known_facts, **checked_arguments(model, options, "model.")}
    recipe = CalledFactory(model, arguments, seed, num_classes, input_shape)
    try:
        built = recipe.build()
    except ConfigError:
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError("model", f"must build a network ({problem})", name_of(model)) from error
    if not isinstance(built, nn.Module):
        raise ConfigError("model", f"must build a torch module, not {type(built).__name__}", name_of(model))
    cam_layer, head = layers_of(built)
    return CalledFactory(model, arguments, seed, num_classes, input_shape, cam_layer, head), built


def layers_of(model: nn.Module) -> tuple[str, str]:
    """(path of the activation map, path of the last linear layer), empty if there is none."""
    paths = dict(model.named_modules())
    found = find_layers(model) if any(type(m) is nn.Linear for m in paths.values()) else ("", "")
    chosen = []
    for key, path in zip(("cam_layer", "head"), found, strict=True):
        own = getattr(model, key, None)
        if isinstance(own, str) and own not in paths:
            raise unknown_name(f"model.{key}", own, paths)
        chosen.append(own if isinstance(own, str) else path)
    return chosen[0], chosen[1]


def name_of(thing: object) -> str:
    """What a class, a function or an object is called."""
    return str(getattr(thing, "__name__", type(thing).__name__))


@dataclass(frozen=True)
class _Copy:
    """Copies a module."""

    module: nn.Module

    def __call__(self) -> nn.Module:
        import copy

        return copy.deepcopy(self.module)
