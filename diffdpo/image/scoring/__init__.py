"""From pairs to a batch with its draws, and what its errors say."""
