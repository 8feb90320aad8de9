"""Distillation of language models, from samples of p* to precision and recall. README.md says how to read it."""
