"""The command line. `app` is the Typer application; command bodies import their stage when run."""

from .app import app, main

__all__ = ["app", "main"]
