"""Bad input at every door: a table of cases, each with the line that it must give."""
