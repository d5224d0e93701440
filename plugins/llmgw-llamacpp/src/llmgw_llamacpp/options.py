"""What a deployment of the backend `llamacpp` may say, and what is refused at start-up."""

from __future__ import annotations

import importlib.util
import os
import secrets
from typing import Annotated, Literal

import msgspec

from llmgw_core.domain.errors import ConfigError
from llmgw_llamacpp.child import Settings
from llmgw_llamacpp.modelfile import ModelFileError, absolute, locate

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class LlamaCppOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one engine.

    `gguf`: path of the model file, or `package:NAME[/GLOB]` for a file inside an installed
    Python package. `alias`: what the engine calls the model (default: the deployment's name
    for it). `context`: tokens that one call may use, prompt and answer together; memory is
    reserved for `context` times `parallel`. `parallel`: calls served at once; more wait.
    `threads`: CPU threads (0: the engine chooses). `batch`: tokens of a prompt processed at
    once (0: the engine chooses). `gpu_layers`: layers on an accelerator (-1: the engine
    chooses). `embedding` with `pooling` makes it serve embeddings only. `chat_template`: file
    with a Jinja chat template instead of the model's own. `warmup`: run the model once before
    it counts as ready. `prompt_cache`: MiB of memory for the states of prompts seen before.
    `port`: 0 lets the kernel choose; a port that is taken is replaced by
    a free one. `start_timeout` and `stop_grace` are in seconds.
    """

    gguf: str
    alias: str = ""
    context: Count = 4096
    parallel: Count = 2
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    batch: Annotated[int, msgspec.Meta(ge=0)] = 0
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] = -1
    embedding: bool = False
    pooling: Literal["", "none", "mean", "cls", "last", "rank"] = ""
    chat_template: str = ""
    warmup: bool = True
    prompt_cache: Annotated[int, msgspec.Meta(ge=0)] = 512
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    start_timeout: Seconds = 300.0
    stop_grace: Seconds = 10.0


def check_options(options: LlamaCppOptions) -> None:
    """Raise `ConfigError` when an engine with these settings cannot start."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("the engine is missing: install the Python package xllamacpp.")
    try:
        locate(options.gguf)
    except ModelFileError as error:
        raise ConfigError(str(error), path="gguf") from error
    if options.pooling and not options.embedding:
        raise ConfigError("pooling needs embedding: true.", path="pooling")
    if options.chat_template and not absolute(options.chat_template).is_file():
        raise ConfigError(
            f"there is no chat template file {options.chat_template}.", path="chat_template"
        )


def child_settings(options: LlamaCppOptions, upstream_model: str) -> Settings:
    """What the child is told: `options` with the model file found, and a new random key.

    Raises `ModelFileError` when the file has gone since the check."""
    template = options.chat_template and str(absolute(options.chat_template))
    return Settings(
        parent=os.getpid(),
        api_key=secrets.token_urlsafe(32),
        gguf=str(locate(options.gguf)),
        alias=options.alias or upstream_model,
        context=options.context,
        parallel=options.parallel,
        threads=options.threads,
        batch=options.batch,
        gpu_layers=options.gpu_layers,
        embedding=options.embedding,
        pooling=options.pooling,
        chat_template=template,
        warmup=options.warmup,
        prompt_cache=options.prompt_cache,
        port=options.port,
    )
