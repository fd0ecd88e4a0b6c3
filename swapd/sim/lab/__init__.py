"""The lab: what a day of requests would have been like under another policy, in virtual time."""
