"""The report of a finished run: `render` turns a run directory into one self-contained HTML page."""

from raysim.report.page import render

__all__ = ["render"]
