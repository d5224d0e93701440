"""How busy an engine is, from the Prometheus metrics of vLLM, SGLang, TGI and llama.cpp.

A parser for the handful of lines that matter: Prometheus' text exposition format, version 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/). Lines of other metrics are passed
over unread; one of ours that cannot be read makes the whole report unusable.

Where the names come from:
- vLLM: `vllm/v1/metrics/loggers.py`. `vllm:gpu_cache_usage_perc` was renamed to
  `vllm:kv_cache_usage_perc` (1 means 100 %); there were versions with both. Engines of a
  data-parallel server are told apart by the label `engine`.
- SGLang: `docs/references/production_metrics.md`, `--enable-metrics`. Ranks of one engine
  (`tp_rank`, `pp_rank`, `moe_ep_rank`) may each report the same requests; `dp_rank` tells engines
  apart. With priorities, series with a `priority` are parts of the one without.
- TGI: https://huggingface.co/docs/text-generation-inference/reference/metrics. No KV cache.
- llama.cpp: `tools/server/README.md`, `--metrics`. The KV cache's use was taken out in 2025.
"""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.load import EngineLoad


class _Names(msgspec.Struct, frozen=True):
    """The metrics of one kind of engine; of those in `kv_use` the first that is there counts."""

    running: str
    waiting: str
    kv_use: tuple[str, ...]


_ENGINES: Final = (
    _Names(
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    _Names("sglang:num_running_reqs", "sglang:num_queue_reqs", ("sglang:token_usage",)),
    _Names("tgi_batch_current_size", "tgi_queue_size", ()),
    _Names(
        "llamacpp:requests_processing",
        "llamacpp:requests_deferred",
        ("llamacpp:kv_cache_usage_ratio",),
    ),
)
_WANTED: Final = tuple(
    name.encode() for each in _ENGINES for name in (each.running, each.waiting, *each.kv_use)
)
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|(?=\}))')
_END_OF_LABELS: Final = re.compile(r"\s*\}")
_VALUE: Final = re.compile(r"\s+(\S+)(?:\s+-?\d+)?\s*")
_RANKS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})

Labels = tuple[tuple[str, str], ...]
Series = dict[str, dict[Labels, float]]
"""Values by metric and labels."""


def engine_load(body: bytes, polled_at: float) -> EngineLoad | None:
    """The load in the metrics page `body`; None when it is no page of an engine known here.
    Raises `UpstreamFailure` of kind `protocol`."""
    series = _read(body)
    for names in _ENGINES:
        if names.running not in series and names.waiting not in series:
            continue
        kv_use = next((series[name] for name in names.kv_use if name in series), None)
        return EngineLoad(
            running=round(sum(series.get(names.running, {}).values())),
            waiting=round(sum(series.get(names.waiting, {}).values())),
            kv_use=None if kv_use is None else min(1.0, max(kv_use.values())),
            polled_at=polled_at,
        )
    return None


def _read(body: bytes) -> Series:
    """The series of the metrics that matter. Those that differ only in the rank that reports them
    are one, with the highest value."""
    found: Series = {}
    for line in body.splitlines():
        if not line.startswith(_WANTED):
            continue
        name, labels, value = sample(line.decode("utf-8", "replace"))
        if name.encode() not in _WANTED or math.isnan(value):
            continue
        if not 0 <= value < math.inf:
            raise _unreadable(line)
        own = dict(labels)
        if own.pop("priority", ""):
            continue
        key = tuple(sorted(each for each in own.items() if each[0] not in _RANKS))
        values = found.setdefault(name, {})
        values[key] = max(value, values.get(key, 0.0))
    return found


def sample(line: str) -> tuple[str, Labels, float]:
    """(name, labels, value) of one line with a sample. Raises `UpstreamFailure`."""
    name = _NAME.match(line)
    if name is None:
        raise _unreadable(line.encode())
    place = name.end()
    labels: list[tuple[str, str]] = []
    if line.startswith("{", place):
        place += 1
        while (end := _END_OF_LABELS.match(line, place)) is None:
            label = _LABEL.match(line, place)
            if label is None:
                raise _unreadable(line.encode())
            labels.append((label[1], _unescaped(label[2])))
            place = label.end()
        place = end.end()
    rest = _VALUE.fullmatch(line, place)
    try:
        if rest is None:
            raise ValueError
        return name[0], tuple(labels), float(rest[1])
    except ValueError:
        raise _unreadable(line.encode()) from None


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)


def _unreadable(line: bytes) -> UpstreamFailure:
    return UpstreamFailure("protocol", f"its metrics cannot be read: {line[:100]!r}")
