"""Language models: loaded, given adapters, checked against the data, written."""
