"""The network that is trained: by name, by import path, from a package, or as an object."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raysim import rng
from raysim.composition.given import Given
from raysim.composition.lookup import find
from raysim.config.schema import ExperimentConfig
from raysim.data.dataset import FederatedData, normalise
from raysim.errors import ConfigError, unknown_name
from raysim.models import MODELS, Architecture
from raysim.models.factory import ModelFactory
from raysim.models.given import factory_of
from raysim.models.recipe import ModelRecipe
from raysim.models.weights import file_digest, load_weights, read_weights

if TYPE_CHECKING:
    from torch import nn


def make_network(
    config: ExperimentConfig, source: FederatedData, given: Given
) -> tuple[ModelFactory, nn.Module]:
    """(the recipe that workers are sent, the network with its initial parameters), once it takes the data's inputs."""
    seed, wanted = rng.torch_seed(config.seed, "model"), config.model
    made = partial(factory_of, num_classes=source.num_classes, input_shape=source.input_shape, seed=seed)
    if given.model is not None:
        factory, model = made(given.model, {})
    else:
        thing = find("model", MODELS, wanted.name)
        built_in = MODELS.get(wanted.name)
        if built_in is not None and built_in is thing:
            for option in wanted.options:
                if option not in built_in.options:
                    raise unknown_name(f"model.{option}", option, built_in.options)
            _refuse_other_than_images(source, wanted.name)
            recipe = ModelRecipe(wanted.name, source.num_classes, source.input_shape, seed, wanted.options)
            return recipe, _built(recipe)
        build = thing.build if isinstance(thing, Architecture) else thing
        factory, model = made(build, wanted.options)
    _try_out(model, source, wanted.name)
    return factory, model


def with_weights(config: ExperimentConfig, model: nn.Module) -> nn.Module:
    """The network, or a copy of it with the values in the file `model.weights`."""
    wanted = config.model
    if wanted.weights is None:
        if wanted.fresh:
            rule = "must be empty without model.weights: all values are drawn"
            raise ConfigError("model.fresh", rule, wanted.fresh, [])
        return model
    path = Path(wanted.weights).expanduser()
    if wanted.weights_digest is not None and (digest := file_digest(path)) != wanted.weights_digest:
        rule = "must be the file that the run was started with; its digest differs"
        raise ConfigError("model.weights", rule, digest, wanted.weights_digest)
    filled = copy.deepcopy(model)
    load_weights(filled, read_weights(path), wanted.fresh)
    return filled


def _built(recipe: ModelRecipe) -> nn.Module:
    """The network with its initial parameters; ConfigError if its options ask for more than torch can make."""
    try:
        return recipe.build()
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        rule = f"must be a network that torch can make here ({type(error).__name__}: {error})"
        raise ConfigError("model", rule, {"name": recipe.name, **recipe.options}) from error


def _refuse_other_than_images(source: FederatedData, name: str) -> None:
    images = source.train.images
    if len(source.input_shape) != 3 or images.dtype.kind == "i":  # integers other than uint8 are tokens
        rule = (
            f"is for images [C, H, W] of uint8 or floats, and the data's inputs are {images.dtype} "
            f"{source.input_shape}: name or give a model of your own for them"
        )
        raise ConfigError("model.name", rule, name)


def _try_out(model: nn.Module, source: FederatedData, name: str) -> None:
    """One input through the network: ConfigError if it does not take it, or gives no score for every class."""
    import torch

    training = model.training
    try:
        with torch.no_grad():
            scores = model.eval()(normalise(source.train.images[:1], source.mean, source.std))
    except Exception as error:
        inputs = f"{source.train.images.dtype} {source.input_shape}"
        raise ConfigError(
            "model", f"must take the data's inputs, {inputs} ({type(error).__name__}: {error})", name
        ) from error
    finally:
        model.train(training)
    shape: tuple[int, ...] = tuple(getattr(scores, "shape", ()))
    if len(shape) != 2 or shape[1] < source.num_classes:
        rule = f"must return scores [n, classes] for the data's {source.num_classes} classes"
        raise ConfigError("model", rule, shape or type(scores).__name__)
