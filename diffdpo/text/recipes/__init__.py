"""What recipes of other programs say of text training, and what becomes of each word."""
