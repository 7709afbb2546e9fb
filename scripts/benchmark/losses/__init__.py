"""The table of losses: every loss of images on the same pairs, at equal compute."""
