"""A simulated machine with its own books, against which the core is tried: virtual time, faults, late facts."""
