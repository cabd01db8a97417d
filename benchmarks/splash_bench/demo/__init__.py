"""`python -m splash_attention demo`: a small language model trained on splash beside the reference."""
