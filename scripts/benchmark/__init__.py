"""Times training programs beside each other: ours, older scripts and TRL, each in a process of its
own, one running at a time."""
