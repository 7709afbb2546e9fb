"""From candidates and their scores to preference pairs: tables, selections, records."""
