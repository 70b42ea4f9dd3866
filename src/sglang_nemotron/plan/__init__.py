"""Plans a server before there is one: a GPU, a checkpoint and a workload come in, memory, requests and flags go out.

Arithmetic alone: this room must never know SGLang, a device or a network. What it says of SGLang 0.5.23's decisions is
held against SGLang's own functions by tests/plan.
"""
