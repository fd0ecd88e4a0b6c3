"""swapd: one daemon that shares a GPU among several llama.cpp models."""

__version__ = "0.1.0"
