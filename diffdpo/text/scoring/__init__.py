"""From a batch of tokens to log-probabilities of completions."""
