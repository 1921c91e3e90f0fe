"""A run directory with seeded, invented numbers, as the report finds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.config.schema import ExperimentConfig
from raysim.metrics import detection
from raysim.runs.directory import schema

WriteRun = Callable[..., Path]
STAGES = {"train": 3.1, "evaluate": 0.4, "cam": 0.62, "autoencoder": 0.81, "gram": 0.05, "aggregate": 0.02}

OWNERS = {"train": "client", "evaluate": "engine"}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together and not drawn, which is most of the time that a page takes."""
    monkeypatch.setattr("raysim.report.page.data_uri", lambda figure: f"data:,{type(figure).__name__}")


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    def write(name: str = "layercam-ae", **options) -> Path:
        return write_run_directory(tmp_path / "runs" / name, **options)

    return write


def write_run_directory(
    folder: Path,
    *,
    rounds: int = 6,
    clients: int = 8,
    attackers: int = 2,
    flags: bool = True,
    scores: bool = True,
    success: bool = True,
    maps: int | None = 12,
    seed: int = 3,
    spilled: int = 0,
) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    config = ExperimentConfig(
        seed=seed,
        rounds=rounds,
        population={"clients": clients, "malicious": attackers},
        data={"name": "cifar10", "partition": {"name": "dirichlet", "alpha": 0.5}},
        model="resnet18",
        attack={"name": "gae", "num_overheard": 5} if attackers else None,
        defense={"name": "layercam_ae", "beta": 1.0} if flags else "median",
    )
    (folder / "config.yaml").write_text(config.to_yaml())
    nodes = [{"name": "head", "cpus": 16, "gpus": ["H200"]}, {"name": "worker-1", "cpus": 64, "gpus": []}]
    environment = {"commit": "0123abc", "versions": {"python": "3.11.2", "numpy": "2.4.6"}, "nodes": nodes}
    (folder / "environment.json").write_text(json.dumps(environment))

    round_rows, client_rows, span_rows = [], [], []
    malicious = np.zeros(clients, dtype=bool)
    malicious[generator.permutation(clients)[:attackers]] = True
    for at in range(rounds):
        score = generator.normal(size=clients) + 3.0 * malicious
        flagged = score > 2.0
        found = detection(malicious, flagged if flags else None, score if scores else None)
        evaluated = at % 2 == 0 or rounds < 4
        round_rows.append(
            {
                "round": at,
                "clients": clients,
                "malicious": attackers,
                "flagged": int(flagged.sum()) if flags else 0,
                "accepted": clients - int(flagged.sum()) if flags else clients,
                "main_accuracy": 0.8 - 0.6 * np.exp(-at / 8) if evaluated else np.nan,
                "main_loss": 2.0 * np.exp(-at / 8) if evaluated else np.nan,
                "attack_success_rate": 0.3 * np.exp(-at / 5) if success and evaluated else np.nan,
                "target_confidence": 0.4 * np.exp(-at / 5) if success and evaluated else np.nan,
                **vars(found),
                "train_loss": 1.5 * np.exp(-at / 8),
                "threshold": 2.0 if flags and scores else None,
                "notes": "",
            }
        )
        for client in range(clients):
            client_rows.append(
                {
                    "round": at,
                    "client": client,
                    "malicious": bool(malicious[client]),
                    "flagged": bool(flagged[client]) if flags else None,
                    "score": float(score[client]) if scores else None,
                    "weight": None,
                    "num_examples": 100 + client,
                    "reason": "non-finite" if flags and at == 1 and client == 0 else "",
                }
            )
        for stage, seconds in STAGES.items():
            for task in (-1, 0, 1):
                wall = seconds * generator.uniform(0.8, 1.2)
                span_rows.append(
                    {
                        "round": at,
                        "stage": stage,
                        "task": task,
                        "node": "head",
                        "start_s": 1.7e9 + at,
                        "wall_s": wall if task == -1 else 100.0,  # a task's own time must not be charted
                        "cpu_s": 2 * wall,
                        "bytes_in": 3_000_000,
                        "bytes_out": 1500,
                        "peak_memory_bytes": 190 * 2**20,
                        "retries": 0,
                        "bytes_moved": 2**21 if stage == "gram" else 0,
                        "bytes_returned": 0,
                        "pid": 7,
                        "bytes_spilled": spilled if stage == "gram" else 0,
                        "bytes_restored": 2 * spilled if stage == "gram" else 0,
                        "owner": OWNERS.get(stage, "defense"),
                    }
                )
    for table, rows in {"rounds": round_rows, "clients": client_rows, "spans": span_rows}.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=schema(table)), folder / f"{table}.parquet")
    if maps is not None:
        for at in {0, rounds - 1}:
            write_maps(folder / "artifacts" / f"round-{at:06d}", generator, malicious, maps)
    return folder


def write_maps(folder: Path, generator: np.random.Generator, malicious: np.ndarray, side: int) -> None:
    """A blob a client, off-centre for attackers, and its blur as the reconstruction."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:side, 0:side] / side
    centre = np.where(malicious, 0.15, 0.5) + generator.normal(scale=0.03, size=malicious.size)
    squared = (x - centre[:, None, None]) ** 2 + (y - centre[:, None, None]) ** 2
    np.save(folder / "heat_maps.npy", np.exp(-squared / 0.03).astype(np.float32))
    np.save(folder / "reconstructed_maps.npy", (0.8 * np.exp(-squared / 0.06)).astype(np.float32))
    np.save(folder / "client_ids.npy", np.arange(malicious.size))
