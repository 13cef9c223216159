"""The version of sdquant, which artifacts and exports record."""

__version__ = "0.1.0"
