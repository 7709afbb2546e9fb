"""The names of the bundled language model and its reviews, which the text commands fall back on."""

MODEL = "assets/reviews-model"
PAIRS = "assets/reviews/pairs"
PREFIXES = "assets/reviews/labels"
