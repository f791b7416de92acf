"""What a training is."""
