"""What trains, whatever the modality: the step, the loop, checkpoints, and a run's folder."""
