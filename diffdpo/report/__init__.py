"""What a person looks at: the page, its plots, the model card."""
