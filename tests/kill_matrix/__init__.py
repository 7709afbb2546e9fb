"""Kills real runs at every kind of moment and compares what they end with to unbroken runs."""
