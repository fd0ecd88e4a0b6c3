"""Facts about this machine: its models, its memory, its sockets. Decides nothing."""
