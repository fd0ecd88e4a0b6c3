"""The child's end: one process, one model, the only place that imports llama_cpp.

Started by the daemon as `python -m swapd.worker --fd N`; everything it hears and says is in `swapd.wire`.
Reading order: child (the loop), slots (continuous batching), prompts, chat, sampling, text, llama, backends.
"""
