"""Chunks to questions with exact answers."""
