"""FLARE (Wang et al., AsiaCCS 2022): tables 2 to 5, figures 1, 4, 6 to 13, and the two times that its text gives.

n = 10 clients that all take part, one attacker with a backdoor and three without a target, T = 20, E = 5, Adam at
1e-3, batches of 64 (Fashion-MNIST) or 32. The server holds m = 10 clean samples of one class; FLTrust gets the
same. Accuracy and attack success (ASR) are those of the last round.

Figures 1, 4, 6, 10 and 11 are representations, a class of the server's samples in each panel; the paper says neither which
classes, nor the round (the last one here), nor the untargeted attack of 10 and 11 (Fang-Krum here).

Not in the paper: the class of the server's samples (0), the clients' classes in table 5 (five each), what
is semantic about a photograph or a tissue (the strongest stripes, as for clothing), the numbers of clients and
attackers in figure 12 other than its ends. Bulyan tolerates (10 - 3) // 4 = 1 of ten clients, also against three.
Small: a client has too few striped samples to learn from, so negatives of images instead; and few batches, so the
malicious steps come more often, with a boost of 5, between the authors' 2 for Krum and 10 for a mean of ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from raysim.presets.preset import Config, Drawn, Preset, Scale, numbers, row

DEFENSES = ("fedavg", "krum", "coomed", "trimmed_mean", "bulyan", "fltrust", "flare")
SEMANTIC = ("krum_backdoor", "coomed_backdoor", "flare_adaptive")
UTILITY = ("main_accuracy", "attack_success_rate")
CONFIDENCE = (*UTILITY, "target_confidence")


@dataclass(frozen=True)
class FlareTask:
    """A data set with its network."""

    model: str
    batch_size: int
    paper: Config
    small: Config
    width: float
    stand_in: str


TASKS = {
    "fmnist": FlareTask(
        "flare_fmnist", 64, {"name": "fashion_mnist"}, {"name": "fashion_mnist", "limit": 1500}, 0.125, ""
    ),
    "cifar10": FlareTask("flare_cifar", 32, {"name": "cifar10"}, {"name": "cifar10", "limit": 1500}, 0.25, ""),
    "kather": FlareTask(
        "flare_kather", 32, {"name": "kather"},
        {"name": "synthetic", "shape": [3, 32, 32], "num_classes": 8, "train_size": 1000, "test_size": 200},
        0.125, "kather -> synthetic, 8 classes",
    ),
}  # fmt: skip

TABLE_2 = {  # without attack; FLTrust is not in it
    "fmnist": "91.77 88.68 91.55 91.61 91.45 91.58",
    "cifar10": "69.58 55.19 69.31 69.35 68.56 67.00",
    "kather": "78.83 75.1 76.6 78.33 75.1 78.23",
}
TABLE_3 = {
    ("krum_backdoor", "fmnist"): "91.6/8.3 87.9/98.3 91.6/45 91.5/43.3 91.4/71.6 91.7/40 91.2/0",
    ("krum_backdoor", "cifar10"): "68.7/26.7 48.1/100 67.8/53.3 68.4/33.3 67.2/65 67/0 66.4/0",
    ("krum_backdoor", "kather"): "79.9/41.6 50.9/86.7 79.3/33.3 79.4/41.7 79.5/56.7 50.5/19.4 76.7/0",
    ("coomed_backdoor", "fmnist"): "91.5/58.3 88/98.3 91.7/78.3 91.6/68.3 91.5/85 91.5/0 91.4/0",
    ("coomed_backdoor", "cifar10"): "68/56.7 50.1/96.7 67.8/85 67.7/53.3 66.1/88.3 66.3/20.3 65.2/0",
    ("coomed_backdoor", "kather"): "75.3/91.7 64.8/51.6 78.6/78.3 78.2/75 78.5/46.7 76.2/7.2 77.8/0",
}
TABLE_4 = {
    ("fang_krum", "fmnist"): "59.2 6.93 79.8 89.7 86.2 91.2 90.9",
    ("fang_krum", "cifar10"): "62.4 10.4 61.6 62.8 62.5 66.4 66.5",
    ("fang_krum", "kather"): "69 12.34 66.1 66.4 69.8 11.6 76.4",
    ("fang_trimmed_mean", "fmnist"): "87.1 87.9 80.3 61.1 89.5 90.7 91.1",
    ("fang_trimmed_mean", "cifar10"): "58.8 53.4 60.3 49.2 64 64.4 67.5",
    ("fang_trimmed_mean", "kather"): "18 70.8 64.2 22.3 74.1 10.9 77.5",
}
TABLE_5 = {
    "krum_backdoor": "75.0 53.3 13.3 71.6 1.6",
    "coomed_backdoor": "100 86.7 75.0 88.3 5.0",
}
TABLE_5_DEFENSES = ("krum", "coomed", "trimmed_mean", "bulyan", "flare")

SECONDS = {10: 3.2, 50: 28.3}
"""The text's times (section 7.3): clients -> seconds of FLARE, of which rounds it does not say."""

SEEN = (
    ("fig1", "krum_backdoor", ("fmnist",), (0, 1, 2)),
    ("fig4", "krum_backdoor", ("kather",), (0,)),
    ("fig6", "krum_backdoor", ("cifar10", "kather"), (0, 1, 2)),
    ("fig10", "fang_krum", ("fmnist", "cifar10"), (0, 1, 2)),
    ("fig11", "fang_krum", ("kather",), (0, 1, 2)),
)
"""Figures of representations: attack, data sets, classes of the server's samples."""


def presets() -> Iterator[Preset]:
    """Tables first, then figures."""
    clean = tuple(name for name in DEFENSES if name != "fltrust")
    for task, text in TABLE_2.items():
        for defense, value in zip(clean, numbers(text, percent=True), strict=True):
            name = f"table2-{task}-{defense}"
            yield _preset(name, task, defense, reported={"main_accuracy": value}, metrics=UTILITY[:1])
    for (attack, task), text in TABLE_3.items():
        for defense, cell in zip(DEFENSES, text.split(), strict=True):
            reported = row(UTILITY, cell, percent=True)
            doubts = {}
            if defense == "fltrust" and not _sixtieths(reported["attack_success_rate"]):
                doubts["attack_success_rate"] = "no multiple of 1/60, as all others are"
            name = f"table3-{attack}-{task}-{defense}"
            yield _preset(name, task, defense, attack, reported=reported, doubts=doubts)
    for (attack, task), text in TABLE_4.items():
        for defense, value in zip(DEFENSES, numbers(text, percent=True), strict=True):
            name = f"table4-{attack}-{task}-{defense}"
            reported = {"main_accuracy": value}
            yield _preset(name, task, defense, attack, 3, reported=reported, metrics=UTILITY[:1])
    for attack, text in TABLE_5.items():
        for defense, value in zip(TABLE_5_DEFENSES, numbers(text, percent=True), strict=True):
            name, reported = f"table5-{attack}-fmnist-{defense}", {"attack_success_rate": value}
            yield _preset(name, "fmnist", defense, attack, reported=reported, classes=5)
    for figure, attack, tasks, labels in SEEN:
        for task in tasks:
            for label in labels:
                malicious = 3 if attack == "fang_krum" else 1
                name = f"{figure}-{task}-class{label}-flare"
                yield _preset(
                    name,
                    task,
                    "flare",
                    attack,
                    malicious,
                    label=label,
                    metrics=(*UTILITY[:1], "recall"),
                    drawn="representations",
                )
    for figure, task in (("fig7", "fmnist"), ("fig8", "cifar10"), ("fig9", "kather")):
        for attack in ("krum_backdoor", "coomed_backdoor"):
            for defense in DEFENSES:
                name = f"{figure}-{attack}_trojan-{task}-{defense}"
                yield _preset(name, task, defense, attack, inputs="trojan", metrics=CONFIDENCE)
    for clients in (10, 20, 30, 40, 50):
        for defense in ("fedavg", "flare"):
            name = f"fig12-n{clients}-{defense}"
            yield _preset(name, "fmnist", defense, "krum_backdoor", clients // 10, clients=clients)
    for malicious in (1, 2, 3, 4, 5, 6):
        for defense in ("fedavg", "flare"):
            name = f"fig12-p{5 * malicious}-{defense}"
            yield _preset(name, "fmnist", defense, "krum_backdoor", malicious, clients=20)
    for clients, seconds in SECONDS.items():
        timed = ("defense_s", "defense_first_s")
        name, reported = f"seconds-n{clients}-flare", {"defense_s": seconds}
        yield _preset(name, "fmnist", "flare", clients=clients, rounds=3, reported=reported, metrics=timed)
    for defense in ("fedavg", "flare"):
        name = f"fig13-flare_adaptive-fmnist-{defense}"
        yield _preset(name, "fmnist", defense, "flare_adaptive", metrics=(*CONFIDENCE, "recall"))


def _preset(
    name: str,
    task: str,
    defense: str,
    attack: str | None = None,
    malicious: int = 1,
    *,
    clients: int = 10,
    rounds: int | None = None,
    classes: int | None = None,
    inputs: str = "semantic",
    label: int = 0,
    drawn: Drawn | None = None,
    reported: dict[str, float | None] | None = None,
    doubts: dict[str, str] | None = None,
    metrics: tuple[str, ...] = UTILITY,
) -> Preset:
    """label: class of the server's samples. rounds: at both scales; None: 20, and 6 at small scale."""

    def config(scale: Scale) -> Config:
        paper, item = scale == "paper", TASKS[task]
        iid = {"name": "iid"}
        split = iid if classes is None else {"name": "classes_per_client", "classes_per_client": classes}
        return {
            "rounds": rounds or (20 if paper else 6),
            "population": {"clients": clients, "malicious": malicious if attack else 0},
            "data": {**(item.paper if paper else item.small), "partition": split},
            "model": {"name": item.model, **({} if paper else {"width": item.width})},
            "training": {
                "epochs": 5 if paper else 2,
                "batch_size": item.batch_size if paper else 8,
                "optimizer": {"name": "adam", "lr": 0.001},
            },
            "attack": _attack(attack, inputs, scale) if attack else None,
            "defense": _defense(defense, malicious, clients),
            "server_data": {"samples": 10, "classes": [label]},
        }

    item = TASKS[task]
    other = "stripes -> negatives" if attack in SEMANTIC and inputs == "semantic" else ""
    narrow = f"{item.model} x {item.width:g}"
    return Preset(
        name=f"flare/{name}",
        description=f"FLARE, {name.partition('-')[0]}: {attack or 'no attack'} against {defense}, {task}",
        paper=config("paper"),
        small=config("small"),
        metrics=metrics,
        reported=reported or {},
        doubts=doubts or {},
        drawn=drawn,
        stand_ins=", ".join(filter(None, [item.stand_in, narrow, other])),
    )


def _attack(name: str, inputs: str, scale: Scale) -> dict[str, object]:
    if name == "fang_krum":
        return {"name": name, "epsilon": 0.0}  # equation 8: the supporters are exact copies
    if name == "fang_trimmed_mean":
        return {"name": name}
    attack: dict[str, object] = {"name": name, "inputs": inputs}
    if scale == "small":  # twice the honest epochs, as in the paper
        often = 2 if name == "coomed_backdoor" else 5
        attack |= {"epochs": 4, "benign_steps": often, "boost": float(often)}
        if inputs == "semantic":
            attack["source"] = "inverted"
    return attack


def _defense(name: str, malicious: int, clients: int) -> dict[str, object]:
    known: dict[str, dict[str, object]] = {
        "fedavg": {"name": "fedavg"},
        "krum": {"name": "krum", "num_byzantine": malicious},
        "coomed": {"name": "median"},
        "trimmed_mean": {"name": "trimmed_mean", "trim": malicious},
        "bulyan": {"name": "bulyan", "num_byzantine": min(malicious, (clients - 3) // 4)},
        "fltrust": {"name": "fltrust"},
        "flare": {"name": "flare"},
    }
    return known[name]


def _sixtieths(value: float | None) -> bool:
    """Whether a share, printed with three digits, may be a multiple of 1/60."""
    return value is not None and abs(value * 60 - round(value * 60)) < 0.06
