"""Reproduce the tables of five papers: run their presets, and print the reported numbers beside the measured ones."""
