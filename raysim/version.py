"""The version of this package: what `raysim --version`, run directories and the distribution say."""

__version__ = "0.2.0.dev0"
