"""FedGrad (Nguyen et al., 2023): tables 2 to 4, figures 7 to 9, and section 6.3.

A quarter of the clients is malicious, phi = .5. Table 2: CIFAR-10 with VGG-9 (N = 200, K = 10, PDR .33) and EMNIST
with Wang's LeNet (N = 3,383, K = 30, PDR .5), edge-case backdoors, 1,000 rounds, the best accuracies of any round.
Table 3: triggers, MNIST (K = 20) and CIFAR-10, by the paper's table 1. Table 4: parts of FedGrad, 100 rounds. Figure
6 is the course of table 2's runs, 9 the seconds of its defenses, 10 what `raysim bench coverage` simulates. Section 6.3
(`section6`) is on EMNIST: 70 % of attackers; four fifths of them with a PDR of .15 and one with .5; attackers that each
poison their own, non-IID data instead of a set that all share. Krum and Multi-Krum assume floor(ratio K).

From the papers whose code FedGrad builds on: SGD with momentum .9 and weight decay 1e-4 and the learning rates of the
edge-case attacks, whose images of CIFAR-10 are cropped and mirrored (full scale); an alpha of 1 in constrain-and-scale
(no constraint). Triggers are trained in by plain SGD, since the paper names a rate alone. Theirs start from
models pretrained for ten epochs, these from random ones. Not in the paper: N for triggers (100, as in Xie et al.,
whose set-ups it takes over), the values of figures 7 and 8 but their ends and defaults, the edge-case attack of 6.3
(black-box). Small: FedGrad's second filter starts after a quarter of the rounds (table 4: half, as in the paper).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raysim.presets.preset import Config, Preset, Scale, row

DEFENSES = ("fedavg", "krum", "multi_krum", "foolsgold", "rfa", "rlr", "flame", "fedgrad")
STRATEGIES = {
    "blackbox": "edge_case",
    "pgd": "edge_case_pgd",
    "pgd_mr": "edge_case_pgd_replacement",
}
BEST = ("main_accuracy_best", "attack_success_rate_best")
UTILITY = (
    *(
        f"{name}{when}"
        for name in ("main_accuracy", "attack_success_rate")
        for when in ("_best", "_last_20", "")
    ),
    "recall",
    "fpr",
)
COMPONENTS = (*BEST, "recall", "fpr")

TABLE_2 = {
    "cifar10": (
        "84.32/71.43 84.32/71.44 10/100", "81.73/12.76 79.54/18.78 81.58/11.74",
        "84.48/67.35 84.28/67.38 10/100", "84.27/68.88 84.08/66.33 83.91/71.93",
        "82.98/88.27 82.89/88.23 72.01/95.41", "82.87/15.31 82.89/15.30 83.32/13.78",
        "83.60/71.43 83.60/72.42 82.95/76.53", "84.62/5.10 85.10/4.08 85.37/5.61",
    ),
    "emnist": (
        "98.49/95.02 10/100 10/100", "95.51/98.88 95.52/89.96 95.83/96.74",
        "98.38/94.87 98.36/96.65 10/100", "98.99/75.13 98.99/75.21 98.99/81.13",
        "95.33/97.91 95.29/98.01 97.17/96.88", "94.38/45.06 94.33/42.13 96.33/85.81",
        "98.24/96.97 98.38/95.98 98.38/96.26", "98.81/7.98 98.83/8.02 98.87/7.96",
    ),
}  # fmt: skip
DEEPSIGHT = "80.54/7.14"
TABLE_3 = {  # FedAvg, FedGrad
    ("unconstrained", "mnist"): "99.07/99.78 98.94/.14",
    ("unconstrained", "cifar10"): "76.40/92.58 75.46/2.24",
    ("constrain_and_scale", "mnist"): "99.07/99.60 98.97/.12",
    ("constrain_and_scale", "cifar10"): "70.69/79.67 74.06/4.39",
    ("dba", "mnist"): "99.07/100 98.90/.10",
    ("dba", "cifar10"): "43.47/69.29 71.95/5.78",
}
TABLE_4 = {
    "soft": "81.62/48.17/95/36",
    "hard": "81.74/76.04/68/35",
    "union": "81.75/2.99/100/43",
    "fedgrad": "82.13/2.54/100/30",
}

TRIGGER_CLIENTS = 100
SECTION_6 = {  # by what differs from table 2: defenses, their numbers where it prints some
    "ratio0.7": {"krum": "", "rlr": "91.5/-", "fedgrad": "98.5/10"},
    "mixed_rates": {"fedavg": "", "fedgrad": "99.4/5"},
    "own_data": {"fedavg": "", "fedgrad": "98.8/5"},
}
MIXED_RATES = ((0.8, 0.15), (0.2, 0.5))
"""Shares of the attackers, and the poisoned share of their samples."""

SIZES = {"cifar10": ((200, 10), (20, 10)), "emnist": ((3383, 30), (30, 12)), "mnist": ((200, 20), (30, 12))}
"""Data set -> clients and cohort, at paper and at small scale."""
STAND_INS = {
    (
        "cifar10",
        "vgg9",
    ): "cifar10 -> fashion_mnist, vgg9 -> dba_mnist_cnn x 0.5, Southwest -> inverted t-shirts",
    ("cifar10", "dba_resnet18"): "cifar10 -> fashion_mnist, dba_resnet18 -> dba_mnist_cnn x 0.5",
    ("emnist", "lenet_wang"): "emnist -> mnist, lenet_wang x 0.125, ARDIS sevens -> inverted sevens",
    ("mnist", "dba_mnist_cnn"): "dba_mnist_cnn x 0.25",
}


def presets() -> Iterator[Preset]:
    """Tables first, then figures."""
    for task, rows in TABLE_2.items():
        for defense, text in zip(DEFENSES, rows, strict=True):
            for strategy, cell in zip(STRATEGIES, text.split(), strict=True):
                yield _edge(f"table2-{task}-{strategy}-{defense}", task, strategy, defense, reported=cell)
    yield _edge("table2-cifar10-blackbox-deepsight", "cifar10", "blackbox", "deepsight", reported=DEEPSIGHT)
    for (attack, task), text in TABLE_3.items():
        for defense, cell in zip(("fedavg", "fedgrad"), text.split(), strict=True):
            yield _trigger(f"table3-{attack}-{task}-{defense}", task, attack, defense, cell)
    for part, text in TABLE_4.items():
        yield _edge(f"table4-{part}", "cifar10", "blackbox", part, rounds=(100, 12), reported=text)
    for defense in DEFENSES:
        for ratio in (0.1, 0.25, 0.5, 0.7):
            yield _edge(
                f"fig7-ratio{ratio:g}-{defense}", "emnist", "pgd", defense, ratio=ratio, rounds=(500, 12)
            )
        for rate in (0.1, 0.33, 0.5):
            yield _edge(f"fig7-pdr{rate:g}-{defense}", "emnist", "pgd", defense, rate=rate, rounds=(500, 12))
        for cohort in (10, 20, 30):
            yield _edge(
                f"fig7-k{cohort}-{defense}", "emnist", "pgd", defense, cohort=cohort, rounds=(500, 12)
            )
    for variant, cells in SECTION_6.items():
        for defense, cell in cells.items():
            yield _section_6(variant, defense, cell)
    for defense in DEFENSES:
        name = f"fig9-cifar10-blackbox-{defense}"
        yield _edge(
            name, "cifar10", "blackbox", defense, rounds=(6, 6), metrics=("defense_s", "defense_first_s")
        )
    for phi in (0, 0.25, 0.5, 0.75, 1):
        for defense in ("fedavg", "fedgrad"):
            yield _edge(f"fig8-phi{phi:g}-{defense}", "cifar10", "pgd", defense, phi=phi)


def _edge(
    name: str,
    task: str,
    strategy: str,
    defense: str,
    *,
    ratio: float = 0.25,
    rate: float | None = None,
    cohort: int | None = None,
    phi: float = 0.5,
    rounds: tuple[int, int] = (1000, 12),
    reported: str = "",
    metrics: tuple[str, ...] | None = None,
    rates: Sequence[tuple[float, float]] = (),
    own_data: bool = False,
) -> Preset:
    """An edge-case backdoor. rate: the poisoned share of an attacker's samples; None: the paper's for the task.

    rates: shares of the attackers with rates of their own, see MIXED_RATES. own_data: no set that all attackers share.
    """
    half = task == "emnist"

    def config(scale: Scale) -> Config:
        paper = scale == "paper"
        poisoned = rate or (0.5 if half else 1 / 3)
        samples = (200 if half else 600) if paper else 120
        attack: dict[str, object] = {"name": STRATEGIES[strategy], **_inputs(task, scale)}
        if own_data:
            attack["distinct_poison"] = True
        if strategy != "blackbox":
            attack["epsilon"] = 1.0 if half else 2.0
            if defense in ("krum", "multi_krum"):
                attack["decay"] = 0.998
        malicious = round(ratio * SIZES[task][0 if paper else 1][0])
        attacks = [{**attack, **_amounts(poisoned, samples)}]
        if rates:
            attacks = [
                {
                    **attack,
                    **_amounts(of_part, samples),
                    "clients": None if last else round(share * malicious),
                }
                for last, (share, of_part) in zip((False, True), rates, strict=True)
            ]
        return {
            **_setting(scale, task, "lenet_wang" if half else "vgg9", ratio, cohort, phi, rounds),
            "training": _edge_training(task, scale),
            "attack": attacks if rates else attacks[0],
            "defense": _defense(defense, _cohort(task, scale, cohort), ratio, scale, rounds),
        }

    table_4 = name.startswith("table4")
    shown = COMPONENTS if table_4 else BEST
    return Preset(
        name=f"fedgrad/{name}",
        description=f"FedGrad, {name.partition('-')[0]}: {strategy} edge-case attack against {defense}, {task}",
        paper=config("paper"),
        small=config("small"),
        metrics=metrics or (COMPONENTS if table_4 else UTILITY),
        reported=row(shown, reported, percent=True) if reported else {},
        stand_ins=STAND_INS[task, "lenet_wang" if half else "vgg9"],
    )


def _section_6(variant: str, defense: str, reported: str) -> Preset:
    """A scenario of section 6.3."""
    name = f"section6-{variant}-{defense}"
    ratio = 0.7 if variant == "ratio0.7" else 0.25
    rates = MIXED_RATES if variant == "mixed_rates" else ()
    own = variant == "own_data"
    return _edge(
        name, "emnist", "blackbox", defense, ratio=ratio, rates=rates, own_data=own, reported=reported
    )


def _amounts(poisoned: float, samples: int) -> dict[str, int]:
    edge = round(poisoned * samples)
    return {"clean_samples": samples - edge, "edge_samples": edge}


def _trigger(name: str, task: str, kind: str, defense: str, reported: str) -> Preset:
    """A backdoor by a stamped trigger, by the paper's table 1."""
    mnist = task == "mnist"
    ratio = 0.4 if kind == "unconstrained" else 0.25

    def config(scale: Scale) -> Config:
        rate = 5 / 64 if mnist else 12 / 64 if kind == "unconstrained" else 6 / 25
        attack: dict[str, object] = {
            "name": {"unconstrained": "trigger"}.get(kind, kind),
            "poisoned_data_rate": rate,
            "epochs": 2 if mnist else 10,
            "scale": 1.0 if kind == "unconstrained" else 100.0 if mnist else 20.0,
        }
        if kind == "constrain_and_scale":
            attack["alpha"] = 1.0
        model, rounds = "dba_mnist_cnn" if mnist else "dba_resnet18", (1000, 12)
        return {
            **_setting(scale, task, model, ratio, None, 0.5, rounds, TRIGGER_CLIENTS),
            "training": {
                "epochs": 2,
                "batch_size": 64 if scale == "paper" else 16,
                "optimizer": {"name": "sgd", "lr": 0.1},
            },
            "attack": attack,
            "defense": _defense(defense, _cohort(task, scale, None), ratio, scale, rounds),
        }

    return Preset(
        name=f"fedgrad/{name}",
        description=f"FedGrad, table 3: {kind} trigger attack against {defense}, {task}",
        paper=config("paper"),
        small=config("small"),
        metrics=UTILITY,
        reported=row(BEST, reported, percent=True),
        stand_ins=STAND_INS[task, "dba_mnist_cnn" if mnist else "dba_resnet18"],
    )


def _cohort(task: str, scale: Scale, wanted: int | None) -> int:
    paper, small = SIZES[task]
    if scale == "paper":
        return wanted or paper[1]
    return small[1] if wanted is None else max(4, round(small[1] * wanted / paper[1]))


def _setting(
    scale: Scale,
    task: str,
    model: str,
    ratio: float,
    cohort: int | None,
    phi: float,
    rounds: tuple[int, int],
    paper_clients: int | None = None,
) -> dict[str, object]:
    paper = scale == "paper"
    clients = SIZES[task][0 if paper else 1][0]
    if paper and paper_clients is not None:
        clients = paper_clients
    network: dict[str, object] = {"name": model}
    data: dict[str, object] = {"name": task}
    if not paper:
        network = {"lenet_wang": {"name": model, "width": 0.125}}.get(
            model, {"name": "dba_mnist_cnn", "width": 0.25 if task == "mnist" else 0.5}
        )
        data = {"name": "fashion_mnist" if task == "cifar10" else "mnist", "limit": 2000}
    return {
        "rounds": rounds[0 if paper else 1],
        "population": {
            "clients": clients,
            "cohort": _cohort(task, scale, cohort),
            "malicious": round(ratio * clients),
            "placement": "random",
        },
        "data": {**data, "partition": {"name": "phi_groups", "phi": float(phi)}},
        "model": network,
    }


def _edge_training(task: str, scale: Scale) -> Config:
    """Wang et al.'s settings; at small scale few samples a client, so small batches."""
    rate, batch, epochs = (0.02, 32, 2) if task == "cifar10" else (0.1, 512, 5)
    if scale == "small":
        rate, batch, epochs = 0.05, 16, 2
    sgd = {"name": "sgd", "lr": rate, "momentum": 0.9, "weight_decay": 1e-4}
    training = {"epochs": epochs, "batch_size": batch, "optimizer": sgd, "lr_decay": 0.998}
    if scale == "paper" and task == "cifar10":
        training["augmentation"] = "crop_flip"
    return training


def _inputs(task: str, scale: Scale) -> dict[str, object]:
    if scale == "paper":
        from raysim.data import default_root

        source = "southwest" if task == "cifar10" else "ardis"
        return {"source": source, "root": str(default_root())}
    classes = {"source_class": 0, "target": 9} if task == "cifar10" else {"source_class": 7, "target": 1}
    return {"source": "inverted", **classes}


def _defense(
    name: str, cohort: int, ratio: float, scale: Scale, rounds: tuple[int, int]
) -> dict[str, object]:
    assumed = min(int(ratio * cohort), (cohort - 3) // 2)
    fedgrad: dict[str, object] = {"name": "fedgrad", "num_byzantine": assumed}
    if scale == "small":
        fedgrad["switch_round"] = rounds[1] // (2 if rounds[0] == 100 else 4)
    if ratio > 0.5:
        fedgrad["threshold_scale"] = 0.35
    known: dict[str, dict[str, object]] = {
        "fedavg": {"name": "fedavg"},
        "krum": {"name": "krum", "num_byzantine": assumed},
        "multi_krum": {"name": "multi_krum", "num_byzantine": assumed, "data_weighted": True},
        "foolsgold": {"name": "foolsgold"},
        "rfa": {"name": "rfa", "max_iterations": 500, "tolerance": 1e-7},
        "rlr": {"name": "rlr", "threshold": int(cohort * ratio) + 1},
        "flame": {"name": "flame"},
        "deepsight": {"name": "deepsight"},
        "fedgrad": fedgrad,
        "soft": {**fedgrad, "hard": False, "trust": False},
        "hard": {**fedgrad, "soft": False, "trust": False},
        "union": {**fedgrad, "trust": False},
    }
    return known[name]
