"""synthetic-data-kit: its client's `batch_completion`, which all its commands send through, for an own endpoint."""

import common
from synthetic_data_kit.models.llm_client import LLMClient


def run(url: str, prompts: list[tuple[str, str]], in_flight: int) -> int:
    """Return how many texts came back."""
    client = LLMClient(provider="vllm", api_base=url, model_name="test-model")
    turns = [[{"role": "system", "content": system}, {"role": "user", "content": user}] for system, user in prompts]
    texts = client.batch_completion(turns, temperature=0.0, max_tokens=common.MAX_TOKENS, batch_size=in_flight)
    return sum(bool(text) and not text.startswith("ERROR") for text in texts)


if __name__ == "__main__":
    common.main(run)
