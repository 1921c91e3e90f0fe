"""Costs of single kernels at a fixed size: class activation maps, MMD, similarities, the autoencoder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from raysim import rng
from raysim.backends.base import Backend, ThreadLimit
from raysim.context import Context
from raysim.matrix.layout import Layout
from raysim.studies.costs.defense_cost import DefenseCost, measure_defense, parse_subjects
from raysim.studies.costs.peers import grad_cam_map, learning, peer_package
from raysim.studies.costs.targets import (
    AUTOENCODER_S,
    CAM_FACTOR,
    MMD_BYTES,
    MMD_S,
    READ_FACTOR,
    SIMILARITIES_S,
    Judged,
    ratio,
)
from raysim.studies.limits import copy_matrix, read_matrix
from raysim.studies.matrix import Matrix, MatrixSpec, build_matrix
from raysim.studies.memory import MemoryWatch
from raysim.studies.timing import seconds

TARGET_CLASS = 3
"""The class that maps explain."""

PAIRS = 1000
"""How many pairs of clients a plain MMD loop is timed on; its time for all pairs is scaled up from these."""


@dataclass(frozen=True)
class KernelTimes:
    """Seconds [R] by what was measured, the targets, and the stages where a whole defense ran."""

    title: str
    times_s: dict[str, np.ndarray]
    targets: list[Judged]
    cost: DefenseCost | None = None


def cam_case(backend: Backend, spec: MatrixSpec, repeats: int, threads: int, *, peers: bool) -> KernelTimes:
    """LayerCAM of K networks: from rows to maps on the backend, and the maps alone in this process beside a peer's.

    In this process both packages are given the same networks with the clients' parameters in place, one by one.
    """
    from defenses.class_activation import model_maps
    from defenses.client_models import map_models
    from defenses.heat_maps import Probe, client_map

    matrix = build_matrix(spec, backend)
    ctx, updates = matrix.context, matrix.updates
    layer, image = ctx.model.cam_layer, ctx.require_server_data().images[0]
    probe = Probe(image, "layercam", TARGET_CLASS)
    batch = probe.images()
    if peers:
        peer_package("pytorch_grad_cam")

    def rows_to_maps() -> None:
        map_models(updates, "cam", client_map, ctx.model, ctx.published, layer, probe)

    rows_to_maps()
    whole = np.array([seconds(rows_to_maps) for _ in range(repeats)])
    spent: dict[str, list[float]] = {"own": [], "peer": [], "bind": []}
    with ThreadLimit(threads)():
        for repeat in range(repeats + 1):
            sums = {"own": 0.0, "peer": 0.0}
            binds = []
            for model, bind_s in _models(matrix):
                binds.append(bind_s)
                sums["own"] += seconds(
                    lambda m: model_maps(m, layer, batch, method="layercam", target=TARGET_CLASS), model
                )
                if peers:
                    with learning(model):
                        sums["peer"] += seconds(grad_cam_map, model, layer, batch, TARGET_CLASS, "layercam")
            if repeat:  # the first one warms up
                sums["bind"] = float(np.median(binds)) * spec.clients
                for name, value in sums.items():
                    spent[name].append(value)
    own, peer, bind = (np.array(spent[name]) for name in ("own", "peer", "bind"))
    times = {
        "cam stage: from rows to maps": whole,
        "maps alone, one process": own,
        "putting parameters in place, one process": bind,
    }
    targets = []
    if peers:
        times["pytorch-grad-cam, one process"] = peer
        alone, all_of_it = float(np.median(peer / own)), float(np.median((peer + bind) / whole))
        targets = [
            Judged("pytorch-grad-cam / maps alone, one process", alone, CAM_FACTOR, at_least=True),
            Judged(
                "(parameters in place + pytorch-grad-cam) / cam stage", all_of_it, CAM_FACTOR, at_least=True
            ),
        ]
    title = f"class activation maps: {spec.clients} x {spec.model} at {image.shape[1]} x {image.shape[2]}"
    return KernelTimes(title, times, targets)


def sums_case(backend: Backend, spec: MatrixSpec, repeats: int) -> KernelTimes:
    """One weighted sum of K rows, beside one read and one copy of them and a product in BLAS, by the same workers.

    The first sum is timed apart: every process loads the compiled loop then, or compiles it where it is not on disk.
    """
    updates = build_matrix(spec, backend).updates
    weights = rng.generator(spec.seed, "bench", "weights").random(updates.num_clients)

    def product() -> None:
        updates.map_columns("product", partial(_weighted, weights), dtype=np.float64)

    read_matrix(updates)
    first = seconds(updates.combine, weights)
    ways = {
        "combine": lambda: updates.combine(weights),
        "one read": lambda: read_matrix(updates),
        "one copy": lambda: copy_matrix(updates),
        "weights @ blocks of 4,096 columns in float64": product,
    }
    spent = {name: np.empty(repeats) for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            spent[name][repeat] = seconds(way)
    target = Judged("combine / one read", ratio(spent["combine"], spent["one read"]), READ_FACTOR)
    title = f"weighted sum of {updates.num_clients} rows of {updates.dim:,} parameters"
    return KernelTimes(title, {"first combine": np.array([first]), **spent}, [target])


def mmd_case(
    backend: Backend,
    repeats: int,
    *,
    seed: int = 0,
    clients: int = 1000,
    samples: int = 10,
    features: int = 128,
) -> KernelTimes:
    """FLARE's MMD between all pairs of clients, bandwidth included; and the plain loop over pairs, scaled up."""
    from defenses.mmd import centred, median_squared_distance, pairwise_mmd

    draw = rng.generator(seed, "bench", "representations")
    sets = draw.standard_normal((clients, samples, features), np.float32)
    sets += draw.standard_normal((clients, 1, features), np.float32)
    ctx = kernel_context(backend, seed)

    def all_pairs() -> None:
        points = centred(sets)
        squared = median_squared_distance(points.reshape(-1, features))
        pairwise_mmd(points, ctx, squared_bandwidth=squared)

    all_pairs()
    times = np.array([seconds(all_pairs) for _ in range(repeats)])
    with MemoryWatch() as watch:
        all_pairs()
    pairs = draw.integers(clients, size=(PAIRS, 2))
    loop = seconds(lambda: [plain_mmd(sets[i], sets[j], 2.0 * features) for i, j in pairs])
    every = clients * (clients - 1) / 2
    return KernelTimes(
        f"MMD of all pairs: {clients} clients, {samples} samples, {features} features",
        {
            "all pairs, one kernel matrix in tiles": times,
            f"a plain loop over pairs ({PAIRS} timed, scaled to {every:,.0f})": np.array(
                [loop / PAIRS * every]
            ),
        },
        [
            Judged("all pairs", float(np.median(times)), MMD_S, "s"),
            Judged("resident memory of the largest process", watch.peak / 1e6, MMD_BYTES / 1e6, "MB"),
        ],
    )


def similarities_case(backend: Backend, repeats: int, *, seed: int = 0, clients: int = 2000) -> KernelTimes:
    """FedGrad's similarities between all clients, within its whole `apply` on the last layers of small networks."""
    spec = MatrixSpec("digits_cnn", (1, 8, 8), 10, clients, clients // 10, seed)
    (subject,) = parse_subjects(["fedgrad"], [])
    cost = measure_defense(subject, build_matrix(spec, backend), repeats)
    similarities = cost.stage_s("similarity")
    return KernelTimes(
        f"FedGrad's similarities: {clients} clients",
        {"similarities": similarities, "whole apply": cost.apply_s},
        [Judged("similarities", float(np.median(similarities)), SIMILARITIES_S, "s")],
        cost,
    )


def autoencoder_case(
    backend: Backend, repeats: int, *, seed: int = 0, clients: int = 100, side: int = 7
) -> KernelTimes:
    """Training the autoencoder of GradCAM-AE and LayerCAM-AE on a round's maps, as the task that their stage is."""
    from defenses.autoencoder import reconstruct

    draw = rng.generator(seed, "bench", "maps")
    maps = draw.random((clients, side * side), np.float32)
    ctx = kernel_context(backend, seed)

    def stage() -> None:
        ctx.run("autoencoder", _reconstruct, maps, seed)

    def _reconstruct(given: np.ndarray, number: int) -> np.ndarray:
        return reconstruct(given, seed=number)

    stage()
    times = np.array([seconds(stage) for _ in range(repeats)])
    return KernelTimes(
        f"autoencoder stage: {clients} maps of {side} x {side}",
        {"autoencoder stage": times},
        [Judged("autoencoder stage", float(np.median(times)), AUTOENCODER_S, "s")],
    )


def _weighted(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """weights [K] times columns [K, c] float64: [c] float32."""
    total: np.ndarray = weights @ columns
    return total.astype(np.float32)


def _models(matrix: Matrix) -> Iterator[tuple[Any, float]]:
    """Every client's network in turn, and the seconds that putting its parameters in place took."""
    from defenses.client_models import bound_models

    ctx = matrix.context
    for block in matrix.updates.blocks:
        tiles = [ctx.backend.get(tile) for tile in block.tiles]
        rows = ([tile[row] for tile in tiles] for row in block.rows)
        models = bound_models(ctx.model, ctx.layout, ctx.global_vector, rows)
        while True:
            start = time.perf_counter()
            model = next(models, None)
            if model is None:
                break
            yield model, time.perf_counter() - start


def plain_mmd(left: np.ndarray, right: np.ndarray, squared_bandwidth: float) -> float:
    """MMD^2 of two sample sets [m, o], pair by pair as one would write it."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a[:, None] - b) ** 2).sum(axis=2) / (2 * squared_bandwidth)).mean())

    return kernel(left, left) + kernel(right, right) - 2 * kernel(left, right)


def kernel_context(backend: Backend, seed: int) -> Context:
    """A context for kernels that need tasks and nothing of a round."""
    vector = np.zeros(1, np.float32)
    layout = Layout.flat(1)
    return Context(backend, seed, "defense", 0, 1, layout, backend.put(vector), vector)
