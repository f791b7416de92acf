"""bespokelabs-curator: `curator.LLM` with its OpenAI backend, no rate limit, no cache of earlier runs."""

import importlib.util
import os
import tempfile
from pathlib import Path

import common
from bespokelabs import curator
from datasets import Dataset


def run(url: str, prompts: list[tuple[str, str]], in_flight: int) -> int:
    """Return how many rows came back with a text."""

    class Asking(curator.LLM):
        """One question a row."""

        def prompt(self, row: dict) -> list[dict]:
            """Return the turns of a row."""
            return [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]

        def parse(self, row: dict, response: str) -> dict:
            """Return the row that is kept."""
            return {"text": response}

    options = {
        "base_url": url,
        "api_key": common.KEY,
        "max_concurrent_requests": in_flight,
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 10_000_000_000,
        "require_all_responses": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CURATOR_CACHE_DIR"] = folder
        try:
            asking = made(Asking, options)
        except (TypeError, ValueError):  # versions that have no such settings
            known = options.keys() - {"max_concurrent_requests", "api_key"}
            asking = made(Asking, {name: options[name] for name in known})
        result = asking(Dataset.from_list([{"system": system, "user": user} for system, user in prompts]))
        rows = getattr(result, "dataset", result)
        return sum(bool(row["text"]) for row in rows)


def made(kind: type, options: dict) -> object:
    """Return the tool, asking the model of the benchmark."""
    generation = {"temperature": 0, "max_tokens": common.MAX_TOKENS}
    return kind(model_name="test-model", backend="openai", backend_params=options, generation_params=generation)


def tokens_of_litellm() -> str:
    """Return the folder in which litellm brings the token lists that curator would fetch from the network."""
    return str(Path(importlib.util.find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers")


if __name__ == "__main__":
    os.environ["TIKTOKEN_CACHE_DIR"] = tokens_of_litellm()
    os.environ.update(
        OPENAI_API_KEY=common.KEY, CURATOR_DISABLE_CACHE="1", CURATOR_DISABLE_RICH_DISPLAY="1", CURATOR_VIEWER="0"
    )
    common.main(run)
