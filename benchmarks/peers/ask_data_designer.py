"""data-designer: one text column over a seed dataset of prompts."""

import tempfile

import common
import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner


def run(url: str, prompts: list[tuple[str, str]], in_flight: int) -> int:
    """Return how many records came back with a text."""
    parameters = dd.ChatCompletionInferenceParams(
        temperature=0.0, max_tokens=common.MAX_TOKENS, max_parallel_requests=in_flight
    )
    model = dd.ModelConfig(
        alias="writer", model="test-model", provider="here", inference_parameters=parameters, skip_health_check=True
    )
    provider = dd.ModelProvider(name="here", endpoint=url, provider_type="openai", api_key=common.KEY)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    seed = pd.DataFrame(prompts, columns=["system", "user"])
    with tempfile.TemporaryDirectory() as folder:
        builder.with_seed_dataset(dd.DataFrameSeedSource(df=seed))
        builder.add_column(
            dd.LLMTextColumnConfig(name="text", prompt="{{ user }}", system_prompt="{{ system }}", model_alias="writer")
        )
        designer = DataDesigner(artifact_path=folder, model_providers=[provider])
        designer.set_run_config(dd.RunConfig(buffer_size=max(1000, 4 * in_flight)))
        result = designer.create(builder, num_records=len(prompts))
        return int(result.load_dataset()["text"].astype(bool).sum())


if __name__ == "__main__":
    common.main(run)
