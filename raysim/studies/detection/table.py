"""The table of `raysim bench detection`, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raysim.defense import title
from raysim.formats import rate
from raysim.studies.detection.measure import (
    CLIENTS,
    MALICIOUS,
    NO_ATTACK,
    OPTIONS,
    SETTINGS,
    TRUE_COUNTS,
    CellResult,
    DetectionCell,
    DetectionPlan,
    defense_options,
)
from raysim.studies.report import machine_lines

COLUMNS = ("recall", "FPR", "accuracy", "s/round", "first")


def markdown(plan: DetectionPlan, results: Mapping[DetectionCell, CellResult], workers: int) -> str:
    """The whole document: where and how it was measured, and a table for each data set, one row a defense."""
    lines = ["# What the defenses catch", ""]
    seeds = " ".join(map(str, plan.seeds))
    lines += [
        f"    {line}" for line in machine_lines(seeds=seeds, repeats=len(plan.seeds), processes=workers)
    ]
    lines += ["", *_notes(plan), ""]
    for data in plan.data:
        lines += [*_table(plan, data, results), ""]
    problems = [(cell, result.problem) for cell, result in results.items() if result.problem]
    if problems:
        lines += ["Cells without numbers:", ""]
        lines += [f"- {cell.name}: {problem}" for cell, problem in problems]
        lines.append("")
    return "\n".join(lines)


def _notes(plan: DetectionPlan) -> list[str]:
    changed = "; ".join(
        f"{name}: {', '.join(f'{key}={value}' for key, value in options.items())}"
        for name, options in OPTIONS.items()
        if name in plan.defenses
    )
    counted = [name for name in plan.defenses if set(TRUE_COUNTS) & set(defense_options(name))]
    notes = [
        f"{CLIENTS} clients, {MALICIOUS} of them malicious. Recall and FPR: mean over rounds (- : the rule flags"
        " nobody by design); accuracy: after the last round; s/round: the defense's wall-clock seconds, median over the"
        " rounds after the first; first: those of the first round, what it does before that included; all of them means over the seeds. Where a rule that flags nobody has"
        " rates, updates that were not finite were refused before it saw them; they are the rates of those rounds.",
    ]
    if counted:
        notes += [
            "",
            f"These rules are told the true number, {MALICIOUS} ({' or '.join(TRUE_COUNTS)}): {', '.join(counted)}.",
        ]
    if changed:
        notes += ["", f"Other options that are not the defaults: {changed}."]
    return notes


def _table(plan: DetectionPlan, data: str, results: Mapping[DetectionCell, CellResult]) -> list[str]:
    from defenses.table import DEFENSES

    setting = SETTINGS[data]
    training = setting["training"]
    limit = f" ({setting['data']['limit']:,} training samples)" if "limit" in setting["data"] else ""
    small = " Cut short on purpose: it shows what is caught, not what is learnt." if limit else ""
    clean = _mean([results.get(DetectionCell(data, NO_ATTACK, "fedavg", seed)) for seed in plan.seeds])
    head = ["defense", *(f"{attack}: {column}" for attack in plan.attacks for column in COLUMNS)]
    lines = [
        f"## {data}{limit}, {setting['model']}, {plan.rounds or setting['rounds']} rounds",
        "",
        f"{training['epochs']} local epochs of batches of {training['batch_size']}."
        f" FedAvg without an attack reaches {rate(clean.accuracy)}.{small}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "|".join([":---", *["---:"] * (len(head) - 1)]) + "|",
    ]
    for name in plan.defenses:
        cells = [title(name, DEFENSES[name])]
        for attack in plan.attacks:
            mean = _mean([results.get(DetectionCell(data, attack, name, seed)) for seed in plan.seeds])
            values = (mean.recall, mean.fpr, mean.accuracy, mean.detection_s, mean.first_s)
            cells += ["failed"] * len(COLUMNS) if mean.problem else [rate(value) for value in values]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _mean(results: Sequence[CellResult | None]) -> CellResult:
    """The mean over seeds of what is defined."""
    found = [result for result in results if result is not None]
    if not found or any(result.problem for result in found):
        return CellResult(problem="; ".join(result.problem for result in found) or "not measured")
    table = np.array([(r.recall, r.fpr, r.accuracy, r.detection_s, r.first_s) for r in found])
    counts = np.maximum((~np.isnan(table)).sum(axis=0), 1)
    means = np.where(np.isnan(table).all(axis=0), np.nan, np.nansum(table, axis=0) / counts)
    return CellResult(*means.tolist())
