"""The rows of preference data of text: held, mixed, or read from shards."""
