"""Output for people: the report page, its plots, the model card."""
