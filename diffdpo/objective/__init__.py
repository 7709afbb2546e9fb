"""Weighted sums of losses: what they read, what they make of it, and how settings name them."""
