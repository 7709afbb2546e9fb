"""The pairs of image preference data: held, or read from shards."""
