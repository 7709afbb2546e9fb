"""Policies and references: networks made trainable, LoRA files loaded and written."""
