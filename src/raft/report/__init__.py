"""A benchmark's facts to a page."""
