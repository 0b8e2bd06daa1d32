"""Video transformers."""
