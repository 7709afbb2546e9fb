"""Bradley–Terry strengths from a comparisons file."""

from diffdpo.ranking.cli import main

__all__ = ["main"]
