"""From a stored cell to training pixels, and what a row holds beside its pictures."""
