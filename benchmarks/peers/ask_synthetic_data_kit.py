"""synthetic-data-kit: its client's `batch_completion`, which all its commands send through; a batch is sent at once."""

import common
from synthetic_data_kit.models.llm_client import LLMClient


def run(url: str, prompts: list[tuple[str, str]], in_flight: int) -> int:
    """Return how many texts came back."""
    client = LLMClient(provider="api-endpoint", api_base=url, api_key=common.KEY, model_name="test-model")
    client.sleep_time = 0  # between two batches; half a second by default
    turns = [[{"role": "system", "content": system}, {"role": "user", "content": user}] for system, user in prompts]
    texts = client.batch_completion(turns, temperature=0.0, max_tokens=common.MAX_TOKENS, batch_size=in_flight)
    return sum(bool(text) and not text.startswith("ERROR") for text in texts)


if __name__ == "__main__":
    common.main(run)
