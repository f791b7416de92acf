"""Hosted models: asked over HTTP, many calls in flight, within limits and a budget."""
