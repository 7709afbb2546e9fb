"""The names of the bundled language model and its reviews."""

MODEL = "assets/reviews-model"
PAIRS = "assets/reviews/pairs"
PREFIXES = "assets/reviews/labels"
