"""Pictures that policies draw: sampled, kept, judged and compared."""
