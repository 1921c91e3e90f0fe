"""`raysim bench defenses`: from its options to measurements and their print-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raysim.errors import ConfigError
from raysim.studies.costs import kernels
from raysim.studies.costs.defense_cost import check_subjects, measure_defense, parse_subjects
from raysim.studies.costs.defense_report import (
    print_costs,
    print_kernel,
    print_limits,
    print_matrix,
    print_peers,
    print_targets,
)
from raysim.studies.costs.peers import byzfl_rules, measure_byzfl
from raysim.studies.costs.targets import RFA_ITERATIONS, SUBJECTS, judge_defenses, judge_memory
from raysim.studies.limits import gram_product
from raysim.studies.matrix import MatrixSpec, bench_backend, build_matrix
from raysim.studies.timing import seconds

BackendName = Literal["ray", "inprocess"]

CASES = ("matrix", "sums", "cam", "mmd", "similarities", "autoencoder")


def bench_matrix(
    names: Sequence[str],
    options: Sequence[str],
    spec: MatrixSpec,
    backend_name: BackendName,
    workers: int,
    repeats: int,
    *,
    peers: bool,
) -> None:
    """Measure defenses on one matrix, beside the limits and, where asked for, ByzFL; print everything."""
    subjects = parse_subjects(names or SUBJECTS, options)
    if peers:
        byzfl_rules(spec.clients, RFA_ITERATIONS)  # refuse before the work begins
    with bench_backend(backend_name, workers) as backend:
        matrix = build_matrix(spec, backend)
        check_subjects(subjects, matrix)
        print_matrix(matrix, backend_name, workers, repeats)
        gram_product(matrix.updates, np.float32)
        gram32 = np.array([seconds(gram_product, matrix.updates, np.float32) for _ in range(repeats)])
        costs = [measure_defense(subject, matrix, repeats) for subject in subjects]
        dense = matrix.updates.to_array() if peers else None
        model_bytes = matrix.model_bytes
        del matrix
    found = {} if dense is None else measure_byzfl(dense, repeats, workers, RFA_ITERATIONS)
    print_limits(costs, gram32)
    print_costs(costs)
    if found:
        print_peers(found)
    targets = judge_defenses(costs, found)
    if backend_name == "ray":
        targets += judge_memory(costs, spec.tile_bytes, model_bytes)
    print_targets(targets)


def bench_kernel(
    case: str,
    backend_name: BackendName,
    workers: int,
    repeats: int,
    seed: int,
    *,
    image: tuple[int, int, int],
    peers: bool,
) -> None:
    """Measure one kernel and print it. image: what the case `cam` shows the networks; the other cases have fixed sizes."""
    with bench_backend(backend_name, workers) as backend:
        if case == "cam":
            spec = MatrixSpec("resnet50", image, 10, clients=24, malicious=3, seed=seed)
            times = kernels.cam_case(backend, spec, repeats, workers, peers=peers)
        elif case == "sums":
            spec = MatrixSpec("leaf_cnn", (1, 28, 28), 62, clients=48, seed=seed)
            times = kernels.sums_case(backend, spec, repeats)
        elif case == "mmd":
            times = kernels.mmd_case(backend, repeats, seed=seed)
        elif case == "similarities":
            times = kernels.similarities_case(backend, repeats, seed=seed)
        elif case == "autoencoder":
            times = kernels.autoencoder_case(backend, repeats, seed=seed)
        else:
            raise ConfigError("case", f"must be one of {', '.join(CASES)}", case)
    print_kernel(times, backend_name, workers, repeats, seed)
