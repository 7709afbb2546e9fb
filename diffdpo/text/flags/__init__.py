"""Flags of text training, a file for each group of them."""
