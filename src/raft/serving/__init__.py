"""Answers of a run over HTTP, as OpenAI's chat completions: retrieval inside, the tuned model, checked quotes."""
