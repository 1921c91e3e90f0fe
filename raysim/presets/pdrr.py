"""PDRR (Lu, Li, Chen and Ma): tables 1 to 3, figures 4 to 7, 10 and 11.

K = 50 clients, c = 20 attackers with ids 0 to 19, who see only each other's models, FEMNIST by LEAF's 192 clients,
LEAF's network; false and missing alarm rates (FAR, MAR) in rounds 1, 20, 50 and 100. Attack and defense are active
in every round here. The baselines drop exactly c clients, as the printed rates imply (30 FAR = 20 MAR); ERR and
LFR validate by the rule that is attacked.

Not in the paper: local training (an epoch of SGD at .06, batches of 10) and q: .5 for Krum and the median, .83 for
the trimmed mean, halfway from 2/3 to 1. For where attackers fill one side, each of them is trimmed in a share
beta / c of the parameters, and each other client, on the other side, in beta / (K - c): 2/3 as often. The paper
trims 2 beta = 20 of 50 values against c = 20 attackers, although it asks for beta >= c: 10 on each side here, and
20 in `table2_full`, whose attack sees what the others' does. Figures 4 to 7 are of round 1, with 10 attackers of full
knowledge; figure 5 counts parameters that no rule moved, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raysim.presets.preset import Config, Drawn, Preset, Scale, row

ROUNDS = (1, 20, 50, 100)
ALARMS = tuple(f"{rate}@{number}" for rate in ("far", "mar") for number in ROUNDS)
RANGE = tuple(f"{end}@{number}" for number in (1, 20, 30, 50, 70, 100) for end in ("q_from", "q_to"))

TABLE_1 = {  # Krum attack
    "dagmm": "0 .33 .5 .5 / 0 .5 .75 .75",
    "vae": ".27 .4 .43 .3 / .4 .6 .65 .45",
    "err": ".43 .4 .43 .5 / .65 .6 .65 .75",
    "lfr": "0 .1 .13 .2 / 0 .15 .2 .3",
    "pdrr": "0 0 0 0 / 0 0 0 0",
}
TABLE_2 = {  # trimmed-mean attack
    "dagmm": ".27 .3 .2 .37 / .4 .45 .3 .55",
    "vae": ".4 .33 .4 .43 / .6 .5 .6 .65",
    "err": ".43 .5 .47 .5 / .65 .75 .7 .75",
    "lfr": ".27 .2 .3 .27 / .4 .3 .45 .4",
    "pdrr": "0 0 0 0 / 0 0 0 0",
}
TABLE_3 = {"dagmm": (6.3, 7.8, 6.8), "vae": (54.5, 56.7, 56.8), "err": (32.2, 32.7, 35.8), "pdrr": (0.42, 0.84, 0.63)}  # fmt: skip
RULES = ("krum", "trimmed_mean", "median")


def presets() -> Iterator[Preset]:
    """Tables first, then figures."""
    for table, rule, rows in (("table1", "krum", TABLE_1), ("table2", "trimmed_mean", TABLE_2)):
        for defense, text in rows.items():
            yield _preset(f"{table}-{rule}-{defense}", rule, defense, reported=row(ALARMS, text))
    name, reported = "table2_full-trimmed_mean-pdrr", row(ALARMS, TABLE_2["pdrr"])
    yield _preset(name, "trimmed_mean", "pdrr", trim_all=True, reported=reported)
    for defense, seconds in TABLE_3.items():
        for rule, value in zip(RULES, seconds, strict=True):  # seconds leave out a run's first round
            name, reported = f"table3-{rule}-{defense}", {"defense_s": value}
            yield _preset(
                name,
                rule,
                defense,
                rounds=(3, 3),
                metrics=("defense_s", "defense_first_s"),
                reported=reported,
            )
    for defense in TABLE_1:
        yield _preset(f"fig10-median-{defense}", "median", defense)
    for figure, rule in (
        ("fig4", "krum"),
        ("fig5", "trimmed_mean"),
        ("fig6", "trimmed_mean"),
        ("fig7", "median"),
    ):
        name, shown = f"{figure}-{rule}-pdrr", ("far@1", "mar@1", "q_from@1", "q_to@1")
        all_counted = figure == "fig5"
        yield _preset(
            name,
            rule,
            "pdrr",
            "full",
            rounds=(1, 1),
            share=5,
            metrics=shown,
            drawn="scores",
            all_counted=all_counted,
        )
    for rule in RULES:
        for knowledge in ("full", "partial"):
            yield _preset(
                f"fig11-{rule}-{knowledge}-pdrr", rule, "pdrr", knowledge, metrics=(*ALARMS, *RANGE)
            )


def _preset(
    name: str,
    rule: str,
    defense: str,
    knowledge: str = "partial",
    *,
    rounds: tuple[int, int] = (100, 10),
    share: float = 2.5,
    trim_all: bool = False,
    all_counted: bool = False,
    drawn: Drawn | None = None,
    metrics: Sequence[str] = ALARMS,
    reported: Mapping[str, float | None] | None = None,
) -> Preset:
    """rounds: at paper and at small scale. share: clients for each attacker. trim_all: beta = c, else c / 2. all_counted: see figure 5."""

    def config(scale: Scale) -> Config:
        paper = scale == "paper"
        clients = 50 if paper else 15
        malicious = int(clients / share)
        trim = malicious if trim_all else malicious // 2
        attack: dict[str, object] = {"name": f"fang_{rule}", "knowledge": knowledge}
        attack |= {"lambda_min": 1e-9, "epsilon": 1e-7} if rule == "krum" else {"stretch": 1.05}
        femnist = {"name": "femnist", "partition": {"name": "natural", "subsets": True}}
        digits = {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5, "min_samples": 10}}
        return {
            "rounds": rounds[0] if paper else rounds[1],
            "population": {
                "clients": clients, "malicious": malicious, "placement": list(range(malicious))
            },
            "data": femnist if paper else digits,
            "model": {"name": "leaf_cnn"} if paper else {"name": "digits_cnn"},
            "training": {"epochs": 1, "batch_size": 10, "optimizer": {"name": "sgd", "lr": 0.06}},
            "attack": attack,
            "defense": _defense(defense, rule, malicious, trim) | ({"count_unmoved": True} if all_counted else {}),
            "server_data": {"samples": 2002 if paper else 100, "source": "test"},
        }  # fmt: skip

    return Preset(
        name=f"pdrr/{name}",
        description=f"PDRR, {name.partition('-')[0]}: {rule} attack ({knowledge} knowledge) against {defense}",
        paper=config("paper"),
        small=config("small"),
        metrics=tuple(metrics),
        reported=reported or {},
        drawn=drawn,
        stand_ins="femnist -> digits (Dirichlet .5), leaf_cnn -> digits_cnn, 50 clients -> 15",
    )


def _defense(name: str, rule: str, malicious: int, trim: int) -> dict[str, object]:
    by_rule: dict[str, object] = {"rule": rule, "num_byzantine": malicious}
    if rule == "trimmed_mean":
        by_rule["trim"] = trim
    pdrr = {**by_rule, "q": 0.83} if rule == "trimmed_mean" else by_rule
    return {
        "dagmm": {"name": "dagmm", "num_byzantine": malicious},
        "vae": {"name": "vae", "num_byzantine": malicious, "score": "probability"},
        "err": {"name": "err", **by_rule},
        "lfr": {"name": "lfr", **by_rule},
        "pdrr": {"name": "pdrr", **pdrr},
    }[name]
