"""Distillation of language models, from samples of p* to precision and recall.

Entries, in the order in which the run_*.sh scripts call them: generate_data, train, eval_perplexity,
eval_precision_and_recall. Everything else here is a leaf that they import.
"""
