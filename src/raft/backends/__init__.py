"""One vendor a file; the only place where heavy packages are imported."""
