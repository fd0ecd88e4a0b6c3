"""swapctl, the client: it asks the daemon over HTTP and shows the answer. It knows no other part of swapd."""
