"""Plain functions from frames to frames; none imports another, and none knows of runs, settings or vendors."""
