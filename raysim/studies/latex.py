"""Tables as LaTeX, for papers: booktabs rules, special characters escaped."""

from __future__ import annotations

from collections.abc import Sequence

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def booktabs(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A tabular with \toprule, \midrule and \bottomrule; its first column to the left, the others to the right.

    >>> print(booktabs(["a_b", "s"], [["x", "1 ± 2"]]))
    \begin{tabular}{lr}
    \toprule
    a\_b & s \\
    \midrule
    x & 1 $\pm$ 2 \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", _row(head), r"\midrule"]
    lines += [*map(_row, rows), r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return " & ".join("".join(ESCAPES.get(letter, letter) for letter in cell) for cell in cells) + r" \\"
