"""Tables that are computed once and kept on disk, the keys that name them, reference scores."""
