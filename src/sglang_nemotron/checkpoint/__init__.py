"""Makes checkpoints in the published file format: a `CheckpointSpec` comes in, a folder that any engine loads goes out.

numpy, torch and tokenizers only; this room must never know SGLang or how a model computes.
"""
