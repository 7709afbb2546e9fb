"""One module for each command. They put the pieces together, and import from every room."""
