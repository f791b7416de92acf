"""The stories of a build, a training, a benchmark: step by step, without a vendor."""
