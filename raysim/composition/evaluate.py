"""Apply a defense to a matrix of updates somebody already has: in this process, without Ray or an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from defenses.table import DEFENSES
from raysim.array_checks import finite, numbers
from raysim.backends.base import InProcessBackend
from raysim.config.schema import Component
from raysim.context import Context, ServerData, Setting, State
from raysim.defense import Chain, Defense, Verdict, check_setting, judged_usable
from raysim.errors import ConfigError, nearest_name, unknown_name
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory, ModuleFactory, check_factory, find_layers
from raysim.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from torch import nn

ROUNDS = 2**31
"""How many rounds a defense is told there will be: more than any window or burn-in, since nobody knows."""


def evaluate(
    name: str | Defense,
    deltas: ArrayLike,
    *,
    client_ids: ArrayLike | None = None,
    num_examples: ArrayLike | None = None,
    model: nn.Module | ModelFactory | None = None,
    cam_layer: str | None = None,
    head: str | None = None,
    global_parameters: ArrayLike | None = None,
    server_data: ServerData | tuple[ArrayLike, ArrayLike] | None = None,
    recipe: TrainingRecipe | None = None,
    state: State | None = None,
    round: int = 0,
    seed: int = 0,
    **hyper_parameters: object,
) -> Verdict:
    """The verdict of defense `name` on updates `deltas` [K, d] (local minus global parameters, float32).

    name: a key of DEFENSES, with its hyper-parameters as keywords, or a Defense, such as a chain.
    client_ids [K]: distinct; default 0 .. K-1. num_examples [K]: claimed training examples; default 1 each.
    model: the network that was trained, for defenses that run it or look at its last layer; its parameters
    in `named_parameters` order are the d columns. cam_layer, head: module paths of its activation map and of
    its last linear layer, by default found by `find_layers`. deltas may also be [K, d + b], with the changes of
    its buffers behind the parameters (zero where left out).
    global_parameters [d] or [d + b]: what the updates are relative to; default the model's own, or zeros.
    server_data: what the server holds: probe images, root or validation data, as a `defenses.ServerData` or a pair
    of images [n, C, H, W] (converted to float32) and labels [n]. recipe: the clients' local training, for defenses
    that train on server data the same way.
    state: what `evaluate_round` returned for the round before; default: that of a first round. round: its
    number, from 0.

    Rows that hold NaN or infinity are flagged and left out before the rule runs. `weights`, `scores` and
    `flagged` are in the order of the rows given; artifacts are in the order of client ids. Raises ConfigError
    for an unknown name or hyper-parameter, with the nearest valid one, and for anything that does not fit; its key
    is that of the argument, or `defense.` and the hyper-parameter; ContractError for a verdict that `Verdict` does not
    allow.

    >>> rows = np.array([[1.0, 0.0], [1.1, 0.0], [1.2, 0.0], [0.9, 0.0], [-9.0, 9.0]])
    >>> evaluate("krum", rows, num_byzantine=1).flagged.tolist()
    [False, False, False, False, True]
    """
    verdict, _ = evaluate_round(
        name,
        deltas,
        client_ids=client_ids,
        num_examples=num_examples,
        model=model,
        cam_layer=cam_layer,
        head=head,
        global_parameters=global_parameters,
        server_data=server_data,
        recipe=recipe,
        state=state,
        round=round,
        seed=seed,
        **hyper_parameters,
    )
    return verdict


def evaluate_round(
    name: str | Defense,
    deltas: ArrayLike,
    *,
    client_ids: ArrayLike | None = None,
    num_examples: ArrayLike | None = None,
    model: nn.Module | ModelFactory | None = None,
    cam_layer: str | None = None,
    head: str | None = None,
    global_parameters: ArrayLike | None = None,
    server_data: ServerData | tuple[ArrayLike, ArrayLike] | None = None,
    recipe: TrainingRecipe | None = None,
    state: State | None = None,
    round: int = 0,
    seed: int = 0,
    **hyper_parameters: object,
) -> tuple[Verdict, State]:
    """Like `evaluate`, for defenses that remember: (verdict, the state to hand to the next round)."""
    defense = _made(name, hyper_parameters)
    factory = None if model is None else _factory(model, cam_layer, head)
    rows, order, examples, ids = _checked(deltas, client_ids, num_examples)
    if factory is None:
        layout, vector = Layout.flat(rows.shape[1]), np.zeros(rows.shape[1], np.float32)
    else:
        network = factory.build()
        layout = Layout.of(network)
        vector = layout.vector(network)
        rows = _with_buffers("deltas", rows, np.zeros((len(rows), layout.num_columns), np.float32), layout)
    if global_parameters is not None:
        given = finite("global_parameters", global_parameters)
        vector = _with_buffers("global_parameters", given, vector, layout)
    held = None if server_data is None else _server_data(server_data)
    if state is not None and not isinstance(state, dict):
        raise ConfigError("state", "must be what an earlier call returned, or None", type(state).__name__)
    setting = Setting.of(
        len(ids),
        population=max(len(ids), int(ids.max()) + 1),
        num_malicious=0,
        rounds=ROUNDS,
        num_classes=0 if factory is None else factory.num_classes,
        server_labels=None if held is None else held.labels,
    )
    with _options_of(defense):
        check_setting(defense, setting)
    backend = InProcessBackend()
    updates = Updates.from_array(
        rows, backend, layout=layout, client_ids=ids, num_examples=examples, bounds=(0, layout.dim)
    )
    context = Context(
        backend=backend,
        seed=seed,
        role="defense",
        round=round,
        rounds=ROUNDS,
        layout=layout,
        published=backend.put(vector),
        global_vector=vector,
        factory=factory,
        server_data=held,
        recipe=recipe or TrainingRecipe(),
    )
    usable = np.isfinite(updates.maxima()).all(axis=1)
    with _options_of(defense):
        if not state:
            first = defense.init(context)
            if state is not None and first:
                rule = f"must be what an earlier call returned, with {', '.join(first)}"
                raise ConfigError("state", rule, state)
            state = first
        verdict, state = judged_usable(defense, state, updates, usable, context)
    return _reordered(verdict, order), state


def _made(name: str | Defense, hyper_parameters: dict[str, object]) -> Defense:
    # The composition root imports the table of this package, which is being filled when this module is read.
    from raysim.composition.given import instances
    from raysim.composition.registry import make

    if not isinstance(name, str | Defense):
        nearest = nearest_name(getattr(name, "__name__", str(name)).lower(), DEFENSES)
        raise ConfigError("defense.name", "must be the name of a defense, or a Defense", name, nearest)
    if not isinstance(name, Defense):
        return make("defense", DEFENSES, Component(**{**hyper_parameters, "name": name}), Defense)
    instances("defense", name.steps if isinstance(name, Chain) else name, Defense)
    if hyper_parameters:
        raise ConfigError("hyper-parameters", "must be set on the defense that is given", [*hyper_parameters])
    return name


def _factory(model: nn.Module | ModelFactory, cam_layer: str | None, head: str | None) -> ModelFactory:
    from torch import nn

    if not isinstance(model, nn.Module):
        if cam_layer is not None or head is not None:
            raise ConfigError("model", "must be an nn.Module if cam_layer or head is given", type(model))
        check_factory(model)
        return model
    found = ("", "") if cam_layer is not None and head is not None else find_layers(model)
    chosen = (found[0] if cam_layer is None else cam_layer, found[1] if head is None else head)
    layers = dict(model.named_modules())
    for key, path in zip(("cam_layer", "head"), chosen, strict=True):
        if path not in layers:
            raise unknown_name(key, path, layers)
    if not hasattr(layers[chosen[1]], "out_features"):
        raise ConfigError("head", "must be the path of an nn.Linear", chosen[1], find_layers(model)[1])
    return ModuleFactory(model, *chosen)


def _checked(
    deltas: ArrayLike, client_ids: ArrayLike | None, num_examples: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(rows [K, d] float32, the order of their client ids, examples [K], ids [K])."""
    rows = numbers("deltas", deltas, "must be a matrix of numbers [K, d]")
    if rows.ndim != 2 or not rows.size:
        raise ConfigError("deltas", "must be a matrix [K, d] with K and d at least 1", rows.shape)
    count = len(rows)
    ids = np.arange(count) if client_ids is None else np.asarray(client_ids)
    examples = np.ones(count, np.int64) if num_examples is None else np.asarray(num_examples)
    for key, values in (("client_ids", ids), ("num_examples", examples)):
        if values.shape != (count,) or values.dtype.kind not in "iu" or (values < 0).any():
            raise ConfigError(key, f"must be {count} integers of at least 0", values)
    distinct, times = np.unique(ids, return_counts=True)
    if len(distinct) < count:
        rule = f"must be distinct, and these repeat (leave it out for 0 .. {count - 1})"
        raise ConfigError("client_ids", rule, distinct[times > 1].tolist())
    return rows, np.argsort(ids, kind="stable"), examples, ids


def _server_data(given: ServerData | tuple[ArrayLike, ArrayLike]) -> ServerData:
    key = "server_data"
    if isinstance(given, ServerData):
        given = given.images, given.labels
    if not (isinstance(given, tuple | list) and len(given) == 2):
        rule = "must be a defenses.ServerData or a pair (images, labels)"
        raise ConfigError(key, rule, type(given).__name__)
    images = finite(key, given[0], "must have images that are numbers [n, C, H, W]")
    if images.ndim != 4:
        raise ConfigError(key, "must have images [n, C, H, W]", images.shape)
    labels = np.asarray(given[1])
    if labels.shape != (len(images),):
        raise ConfigError(key, "must have as many labels [n] as images", labels.shape, (len(images),))
    if labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ConfigError(key, "must have labels that are integers of at least 0", labels)
    return ServerData(images, labels.astype(np.int64, copy=False))


@contextmanager
def _options_of(defense: Defense) -> Iterator[None]:
    """Name a hyper-parameter that does not fit as `make` names it; any other key is that of an argument."""
    steps = defense.steps if isinstance(defense, Chain) else (defense,)
    options = {field.name for step in steps for field in fields(step)}
    try:
        yield
    except ConfigError as error:
        if error.key in options:
            raise error.under("defense") from error
        raise


def _with_buffers(key: str, given: np.ndarray, whole: np.ndarray, layout: Layout) -> np.ndarray:
    """`given` [..., d or d + b], its missing buffers taken from `whole` [..., d + b]."""
    if given.ndim == whole.ndim and given.shape[-1] == layout.num_columns:
        return given
    if given.ndim == whole.ndim and given.shape[-1] == layout.dim:
        return np.concatenate([given, whole[..., layout.dim :]], axis=-1)
    sizes = f"{layout.dim} columns" + (f" (or {layout.num_columns})" if layout.buffers else "")
    raise ConfigError(key, f"must have {sizes}, one per parameter", given.shape)


def _reordered(verdict: Verdict, order: np.ndarray) -> Verdict:
    """From the order of client ids to that of the rows given."""
    place = np.argsort(order)
    weights, scores, flagged = (
        None if values is None else np.asarray(values)[place]
        for values in (verdict.weights, verdict.scores, verdict.flagged)
    )
    return replace(verdict, weights=weights, scores=scores, flagged=flagged)
