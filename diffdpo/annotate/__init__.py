"""People choose: a page that shows two pictures, texts or clips and a prompt, and what their votes
amount to."""
