"""What trains, and what becomes of an adapter."""
