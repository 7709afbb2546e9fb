"""The race to quality: seconds of training to a policy that is better."""
