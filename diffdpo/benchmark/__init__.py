"""Times real training programs beside each other: ours, older scripts and TRL, one process each, in
turns."""
