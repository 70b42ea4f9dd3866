"""Choices in, the launch command out, or why there is none; knows tables and text alone, no SGLang and no machine."""
