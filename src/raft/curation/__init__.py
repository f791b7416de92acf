"""Questions to what is kept, and split."""
