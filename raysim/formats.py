"""How numbers are written for people: one form a quantity, one sign for what is undefined."""

from __future__ import annotations

from math import floor, isnan, log10

UNDEFINED = "-"
"""Stands for a value that is not defined: a rate without attackers, an accuracy that was not measured. ASCII, since tables
are also printed to terminals of any encoding."""


def percent(value: float) -> str:
    """A share in percent.

    >>> percent(0.97214), percent(float("nan"))
    ('97.21 %', '-')
    """
    return UNDEFINED if isnan(value) else f"{100 * value:.2f} %"


def rate(value: float) -> str:
    """A detection rate, or any other number that is read to three decimals.

    >>> rate(2 / 3)
    '0.667'
    """
    return UNDEFINED if isnan(value) else f"{value:.3f}"


def number(value: float) -> str:
    """Any quantity, with four significant digits.

    >>> number(0.5), number(1234.5)
    ('0.5000', '1,234.')
    """
    return UNDEFINED if isnan(value) else f"{value:#,.4g}"


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, written out, whole thousands kept.

    >>> [significant(value) for value in (0.0001234, 1.2345, 1234.5, 0.0)]
    ['0.000123', '1.23', '1,234', '0']
    """
    if isnan(value):
        return UNDEFINED
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{value:,.{max(0, digits - 1 - floor(log10(abs(rounded))))}f}"


def seconds(value: float) -> str:
    """Seconds with three significant digits and their unit.

    >>> [seconds(value) for value in (0.0124, 48.84, 1234.0)]
    ['0.0124 s', '48.8 s', '1,234 s']
    """
    return UNDEFINED if isnan(value) else f"{significant(value)} s"


def column_seconds(value: float) -> str:
    """Seconds in a table whose heading names the unit.

    >>> column_seconds(0.34)
    '0.3400'
    """
    return UNDEFINED if isnan(value) else f"{value:,.4f}"


def duration(value: float) -> str:
    """Seconds as hours, minutes and seconds.

    >>> duration(250.2)
    '0:04:10'
    """
    if isnan(value):
        return UNDEFINED
    minutes, second = divmod(round(value), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def size(value: float) -> str:
    """Bytes in the largest binary unit that leaves at least one.

    >>> [size(value) for value in (512, 94e6, 9.84 * 2**30)]
    ['512 B', '89.6 MiB', '9.84 GiB']
    """
    if isnan(value):
        return UNDEFINED
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:,.0f} {unit}" if unit == "B" else f"{significant(amount)} {unit}"
        amount /= 1024
    return f"{significant(amount)} TiB"
