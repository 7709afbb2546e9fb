"""Flags of image training, a file for each group of them."""
