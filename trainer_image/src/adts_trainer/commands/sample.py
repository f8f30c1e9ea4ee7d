"""`adts sample`: text from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="CHECKPOINT_OR_RUN_DIR")
@click.option("--prompt", default="", help="Text to continue; empty starts a new document.")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(min=1), help="Tokens to draw.")
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--top-k", default=0, type=click.IntRange(min=0), help="Draw from the k likeliest tokens; 0 from all.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same text.")
@click.option("--tokenizer", default="", help="Overrides the tokenizer that the checkpoint names.")
def sample(folder: Path, prompt: str, tokens: int, temperature: float, top_k: int, seed: int, tokenizer: str) -> None:
    """Let the newest checkpoint of a run write text."""
    from adts_trainer.data.tokenizer import load_tokenizer
    from adts_trainer.errors import CheckpointError
    from adts_trainer.generate import generate
    from adts_trainer.weights import find_checkpoint, load_model

    found = find_checkpoint(folder)
    facts = found.card.facts
    if facts.task != "tokens":
        raise CheckpointError(f"{found.directory}: was trained for {facts.task}; only language models write text")
    name = tokenizer or facts.tokenizer
    if not name:
        raise CheckpointError(f"{found.directory}: does not say which tokenizer its tokens came from; add --tokenizer")
    chosen = load_tokenizer(name)
    given = chosen.encode(prompt.encode()).tolist()
    drawn = generate(
        load_model(found),
        given or [chosen.separator or 0],
        tokens,
        context=found.card.data.sequence_length,
        temperature=temperature,
        top_k=top_k,
        vocabulary=chosen.vocabulary_size,
        seed=seed,
    )
    click.echo(chosen.decode([*given, *drawn]))
