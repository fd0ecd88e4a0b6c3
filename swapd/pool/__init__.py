"""The parent's end of the workers: processes, frames, deaths. Knows nothing of HTTP, memory or decisions."""
