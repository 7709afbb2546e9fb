"""From a record of preference data to tokens, and to tables of them."""
