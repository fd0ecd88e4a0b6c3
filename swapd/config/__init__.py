"""config.toml and the environment, checked, as one frozen Settings.

`daemon.py` and `swapd check` call `load`; nobody below knows that there are files. `sources.py` gathers what
was written and remembers where, `tables.py` and `values.py` say what is allowed, `problems.py` what is wrong.
"""

from swapd.config.settings import Settings, load

__all__ = ["Settings", "load"]
