"""distilabel: a pipeline with one `TextGeneration` step over prompts; its LLM sends a whole batch at once."""

import tempfile

import common
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def run(url: str, prompts: list[tuple[str, str]], in_flight: int) -> int:
    """Return how many rows came back with a text."""
    rows = [{"system_prompt": system, "instruction": user} for system, user in prompts]
    generation = {"temperature": 0.0, "max_new_tokens": common.MAX_TOKENS}
    with tempfile.TemporaryDirectory() as folder:
        with Pipeline(name="throughput", cache_dir=folder) as pipeline:
            load = LoadDataFromDicts(data=rows, batch_size=in_flight)
            llm = OpenAILLM(model="test-model", base_url=url, api_key=common.KEY, generation_kwargs=generation)
            load >> TextGeneration(llm=llm, input_batch_size=in_flight)
        found = pipeline.run(use_cache=False)
    return sum(bool(row["generation"]) for row in found["default"]["train"])


if __name__ == "__main__":
    common.main(run)
