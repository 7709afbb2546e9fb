"""Latents, prompt embeddings and reference scores that are computed once and stored."""
