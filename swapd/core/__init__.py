"""The pure core: every decision of swapd, synchronous and deterministic. README.md beside this file says why."""
