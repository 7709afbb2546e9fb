"""The forward process of a network: schedules, timesteps, noise and targets."""
