"""The one prompt, answering with it, and whether an answer stands on what was shown."""
