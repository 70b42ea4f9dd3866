"""Compares a server with itself: a prompt computed afresh against the same prompt from its prefix cache. Knows HTTP."""
