"""`swapd demo`: two small real models under one daemon with room for one.

Called by `swapd.__main__` and by `make`. Builds on the daemon and on the client; neither knows of it.
"""
