"""The composition roots: one module a command, the only ones that know every name."""
