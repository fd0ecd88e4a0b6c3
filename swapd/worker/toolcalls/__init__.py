"""Tool calls and thinking in what a model writes: the formats, one a module, and the parser over them."""
