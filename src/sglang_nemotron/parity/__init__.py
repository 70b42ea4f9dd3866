"""Compares a server with Hugging Face transformers, token by token. Never imports SGLang: it knows it as HTTP."""
