"""What a run is measured by, and the verdict."""
