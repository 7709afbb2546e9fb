"""Data sets that are read while training runs: shards of parquet or tar files, by row number."""
