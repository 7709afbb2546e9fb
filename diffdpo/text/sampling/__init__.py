"""Completions that models write: sampled, judged and compared."""
