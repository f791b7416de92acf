"""Where chunks are looked up: by vectors, by words, by both."""
