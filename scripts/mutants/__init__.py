"""Changes the code in one point at a time and lists the changes that no test notices."""
