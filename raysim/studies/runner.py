"""Carries any study out: brings clusters up, measures what is not finished, writes tables and the page.

`python -m raysim.studies.runner MODULE:STUDY OUT NODES` is the driver of one number of nodes, on the cluster of
$RAY_ADDRESS; what is to be measured it reads from OUT/plan.json.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysim.errors import RaysimError, RunError
from raysim.formats import duration
from raysim.runs.directory import write_atomically
from raysim.runs.table_schema import write_parquet
from raysim.studies import markdown
from raysim.studies.store import Store, read_json
from raysim.studies.study import (
    About,
    Bench,
    Cell,
    InProcesses,
    OnBackend,
    OnCluster,
    Page,
    Plan,
    Study,
    nodes_of,
)

Tell = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Where progress goes by default."""
    print(line, file=sys.stderr, flush=True)


def carry_out(
    study: Study[Any, Any],
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    page: Path | None = None,
    at_most: int | None = None,
    tell: Tell = to_stderr,
) -> str:
    """Measure the cells of the plan that `out` lacks, write the tables and the page there; the page.

    page: a file that gets the page without its title, to be included by one in the folder above. at_most: how many cells are
    measured now, of a study whose cells are runs; the page is of those that are finished by then.

    Raises ConfigError for a plan that cannot be carried out, before anything starts; RecordError for an `out` that holds
    another measurement, or any without `resume`; RunError if a driver fails: the cells it finished stay.
    """
    for line in study.check(plan):
        tell(line)
    cells, store = study.cells(plan), Store(out, study.tables)
    if study.replaces and not resume:
        store.forget(cells)
    about = store.claim(plan, resume=resume or study.replaces)
    waiting = [cell for cell in cells if not store.is_finished(cell)]
    if len(waiting) < len(cells):
        tell(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished already")
    later = waiting[at_most:] if at_most is not None else []
    waiting = waiting[: len(waiting) - len(later)]
    with study.around(plan) if waiting else contextlib.nullcontext(plan) as placed:
        for nodes in dict.fromkeys(map(nodes_of, waiting)):
            here = [cell for cell in waiting if nodes_of(cell) == nodes]
            if isinstance(placed, OnCluster) and placed.backend == "ray":
                _on_cluster(study, placed, out, nodes)
            elif isinstance(placed, InProcesses) and placed.workers > 1:
                _in_processes(study, placed, store, here, CellCounter(len(here), tell))
            else:
                with bench_of(placed, out) as bench:
                    _measure(study, placed, store, here, bench, CellCounter(len(here), tell))
    shown = study.page(plan, store.merge(cells, about))
    for name, table in shown.tables.items():
        write_parquet(out / f"{name}.parquet", table)
    for name, content in shown.files.items():
        write_atomically(out / name, content.encode())
    text = write_page(study.title, about, shown, out / f"{study.name}.md", page)
    if later:
        tell(f"{len(later)} of {len(cells)} cells are left for another time: --resume measures them")
    if lost := [cell for cell in cells if cell not in later and not store.is_finished(cell)]:
        first = f"{len(lost)} of {len(cells)} cells have no numbers ({lost[0]}, ...)"
        raise RunError(f"{first}; {out / study.name}.md shows the others; --resume tries again")
    return text


def write_page(title: str, about: About, page: Page, path: Path, included: Path | None = None) -> str:
    """Write the page and its figures (SVG and PNG) beside it and, where wanted, once more to be included; its text."""
    from raysim.studies.figure import save

    for target in (path, included):
        if target is None:
            continue
        folder = f"{target.parent.name}/" if target is included and target.parent.name else ""
        names = {name: f"{target.stem}-{name}" for name in page.figures}
        target.parent.mkdir(parents=True, exist_ok=True)
        for name, (_, figure) in page.figures.items():
            save(figure, target.parent / names[name])
        files = {name: f"{folder}{file}.svg" for name, file in names.items()}
        text = markdown.document(title if target is path else "", about, page, files)
        write_atomically(target, text.encode())
    return path.read_text(encoding="utf-8")


@dataclass
class CellCounter:
    """Says which cell was finished, out of how many, and for how long the others will take."""

    total: int
    tell: Tell
    done: int = 0
    began: float = field(default_factory=time.perf_counter)

    def finished(self, cell: Cell, said: str = "") -> None:
        """One line."""
        self.done += 1
        left_s = (time.perf_counter() - self.began) / self.done * (self.total - self.done)
        left = f" ({duration(left_s)} left)" if self.done < self.total else ""
        self.tell(f"{self.done} of {self.total}: {cell}{': ' if said else ''}{said}{left}")


@contextlib.contextmanager
def bench_of(plan: Plan, out: Path) -> Iterator[Bench]:
    """Where the plan is measured: this process, or a cluster of as many CPUs as it has workers, one thread each."""
    from raysim.backends.base import InProcessBackend

    if not isinstance(plan, OnBackend) or plan.backend == "inprocess":
        workers = plan.workers if isinstance(plan, OnBackend) else 1
        yield Bench(InProcessBackend(threads=workers), workers, out=out)
        return
    from raysim.backends import ray_connection as ray_cluster

    with ray_cluster.connected(num_cpus=plan.workers), _ray_bench(plan.workers, plan.workers, out) as bench:
        yield bench


@contextlib.contextmanager
def _ray_bench(workers: int, cpus: int, out: Path) -> Iterator[Bench]:
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    with contextlib.closing(RayBackend(ClientActors(0), workers=workers)) as backend:
        yield Bench(backend, workers, cpus, out)


def _measure(
    study: Study[Any, Any],
    plan: Plan,
    store: Store,
    cells: Sequence[Cell],
    bench: Bench,
    progress: CellCounter,
) -> None:
    with study.opened(plan, bench) as opened:
        for cell in cells:
            rows = study.measure(plan, cell, opened)
            store.write(cell, rows)
            progress.finished(cell, study.told(rows))


def _in_processes(
    study: Study[Any, Any], plan: InProcesses, store: Store, cells: Sequence[Cell], progress: CellCounter
) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(plan.workers, len(cells)), mp_context=spawn) as pool:
        running = {pool.submit(_one, study, plan, store, cell): cell for cell in cells}
        try:
            for future in as_completed(running):
                progress.finished(running[future], future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one(study: Study[Any, Any], plan: Plan, store: Store, cell: Cell) -> str:
    """One cell in a process of its own; what is said of it."""
    with bench_of(plan, store.out) as bench, study.opened(plan, bench) as opened:
        rows = study.measure(plan, cell, opened)
    store.write(cell, rows)
    return study.told(rows)


def _on_cluster(study: Study[Any, Any], plan: OnCluster, out: Path, nodes: int) -> None:
    """Bring a cluster up and run the driver on it; RunError if it fails."""
    from cluster.clusters import bring_up

    kind = type(study)
    words = [sys.executable, "-m", __name__ if __name__ != "__main__" else "raysim.studies.runner"]
    with bring_up(nodes=nodes, address=plan.address, **plan.cluster) as cluster:
        status = cluster.run(
            [*words, f"{kind.__module__}:{kind.__qualname__}", str(out.resolve()), str(nodes)]
        )
    if status:
        raise RunError(
            f"the driver on {nodes} nodes ended with status {status}; finished cells are kept: --resume"
        )


def drive(study: Study[Any, Any], out: Path, nodes: int) -> None:
    """The driver: measure every unfinished cell of this number of nodes on the cluster of $RAY_ADDRESS."""
    from raysim.backends import ray_connection as ray_cluster

    plan, store = study.plan(**read_json(out / "plan.json")["plan"]), Store(out, study.tables)
    cells = [cell for cell in study.cells(plan) if nodes_of(cell) == nodes and not store.is_finished(cell)]
    with ray_cluster.connected(os.environ["RAY_ADDRESS"]):
        capacity, found = ray_cluster.capacity(), len(ray_cluster.nodes())
        if found != nodes:
            raise RunError(f"the cluster has {found} nodes, not {nodes}")
        with _ray_bench(capacity.workers(1), capacity.cpus // nodes, out) as bench:
            _measure(study, plan, store, cells, bench, CellCounter(len(cells), to_stderr))


def main(words: Sequence[str]) -> None:
    """The driver's command line; own errors in one line, and status 1."""
    module, _, name = words[0].partition(":")
    try:
        drive(getattr(importlib.import_module(module), name)(), Path(words[1]), int(words[2]))
    except RaysimError as error:
        sys.exit("error: " + " ".join(str(error).split()))


if __name__ == "__main__":
    main(sys.argv[1:])
