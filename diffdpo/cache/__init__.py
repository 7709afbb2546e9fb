"""What is computed once and kept on disk: tables, what they depend on, reference scores."""
