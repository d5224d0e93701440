"""The metrics of real engines, and the format itself against Prometheus' own parser.

The pages are shortened to what is near the metrics that count, and are in the form of:
vLLM: https://docs.vllm.ai/en/stable/usage/metrics/ and `vllm/v1/metrics/loggers.py`;
SGLang: `docs/references/production_metrics.md` of sgl-project/sglang;
TGI: https://huggingface.co/docs/text-generation-inference/reference/metrics;
llama.cpp: what its server answered on 2026-11-23, and before 2025-05 (PR 13660) too.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmgw_core.backends.engine_metrics import engine_load, sample
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.load import EngineLoad

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 8.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 3.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.42
vllm:iteration_tokens_total_bucket{le="1.0",model_name="unsloth/Llama-3.2-1B-Instruct"} 3.0
"""
VLLM_PARALLEL = b"""\
vllm:num_requests_running{engine="0",model_name="m"} 8.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:gpu_cache_usage_perc{engine="1",model_name="m"} 0.9
"""
VLLM_OLD = b"""\
vllm:num_requests_running{model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:cpu_cache_usage_perc{model_name="m"} 0.9
"""
SGLANG = b"""\
# HELP sglang:token_usage The token usage
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.28
sglang:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 11008.0
# HELP sglang:num_running_reqs The number of running requests
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
# HELP sglang:num_queue_reqs The number of requests in the waiting queue
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 2826.0
"""
SGLANG_RANKS = b"""\
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 4.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 4.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 3.0
sglang:num_running_reqs_total 100
"""
SGLANG_ENGINES = b"""\
sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 1.0
sglang:num_running_reqs{dp_rank="1",tp_rank="0"} 2.0
"""
SGLANG_PRIORITIES = b"""\
sglang:num_running_reqs{pp_rank="0",priority="",tp_rank="0"} 14.0
sglang:num_running_reqs{pp_rank="0",priority="-1",tp_rank="0"} 4.0
sglang:num_running_reqs{pp_rank="0",priority="0",tp_rank="0"} 10.0
"""
TGI = b"""\
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 4
# TYPE tgi_queue_size gauge
tgi_queue_size 7
# TYPE tgi_batch_next_size histogram
tgi_batch_next_size_bucket{le="1"} 8
"""
LLAMACPP = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 64
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots per llama_decode() call
# TYPE llamacpp:n_busy_slots_per_decode gauge
llamacpp:n_busy_slots_per_decode 1.71698
"""
LLAMACPP_OLD = LLAMACPP + b"llamacpp:kv_cache_usage_ratio 0.31\n"


@pytest.mark.parametrize(
    ("page", "running", "waiting", "kv_use"),
    [
        pytest.param(VLLM, 8, 3, 0.42, id="vLLM"),
        pytest.param(VLLM_PARALLEL, 12, 2, 0.75, id="vLLM with two engines"),
        pytest.param(VLLM_OLD, 1, 0, 0.5, id="vLLM before the renaming"),
        pytest.param(SGLANG, 162, 2826, 0.28, id="SGLang"),
        pytest.param(SGLANG_RANKS, 4, 3, None, id="SGLang, every rank reports"),
        pytest.param(SGLANG_ENGINES, 3, 0, None, id="SGLang with two engines"),
        pytest.param(SGLANG_PRIORITIES, 14, 0, None, id="SGLang with priorities"),
        pytest.param(TGI, 4, 7, None, id="TGI"),
        pytest.param(LLAMACPP, 1, 2, None, id="llama.cpp"),
        pytest.param(LLAMACPP_OLD, 1, 2, 0.31, id="llama.cpp that told its cache"),
    ],
)
def test_what_an_engine_says_about_its_load_is_understood(
    page: bytes, running: int, waiting: int, kv_use: float | None
) -> None:
    assert engine_load(page, 5.0) == EngineLoad(running, waiting, kv_use, 5.0)
    assert engine_load(page.replace(b"\n", b"\r\n"), 5.0) == engine_load(page, 5.0)


@pytest.mark.parametrize(
    "page", [b"", b"go_gc_duration_seconds 1\n", b"<html></html>", b"\xff\x00"]
)
def test_other_pages_say_nothing(page: bytes) -> None:
    assert engine_load(page, 5.0) is None


@pytest.mark.parametrize(
    "line",
    [
        b"tgi_queue_size",
        b"tgi_queue_size seven",
        b"tgi_queue_size -1",
        b"tgi_queue_size +Inf",
        b"tgi_queue_size 7 8 9",
        b'tgi_queue_size{a="b" 7',
        b'tgi_queue_size{a="b"}7',
        b'tgi_queue_size{a="b"c="d"} 7',
        b'tgi_queue_size{"a"="b"} 7',
        b'tgi_queue_size{a="b} 7',
    ],
)
def test_a_line_that_cannot_be_read_makes_the_report_unusable(line: bytes) -> None:
    with pytest.raises(UpstreamFailure, match="its metrics cannot be read") as caught:
        engine_load(TGI + line + b"\n", 5.0)
    assert caught.value.kind == "protocol"


def test_a_metric_without_a_value_yet_is_not_counted() -> None:
    page = b"tgi_queue_size NaN\ntgi_batch_current_size 2\n"
    assert engine_load(page, 5.0) == EngineLoad(2, 0, None, 5.0)


def test_a_cache_that_is_more_than_full_is_full() -> None:
    page = VLLM_OLD.replace(b"0.5", b"1.25")
    assert engine_load(page, 5.0) == EngineLoad(1, 0, 1.0, 5.0)


def test_a_line_that_is_no_sample_is_refused() -> None:
    with pytest.raises(UpstreamFailure):
        sample("{} 1")


names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True)
keys = st.from_regex(r"_?[a-zA-Z][a-zA-Z0-9_]{0,10}", fullmatch=True)
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
)


@given(
    names,
    st.dictionaries(keys, texts, max_size=4),
    st.floats(allow_nan=False) | st.integers(-(10**9), 10**9),
    st.none() | st.integers(0, 2**41),
    st.booleans(),
)
def test_samples_are_read_as_prometheus_reads_them(
    name: str, labels: dict[str, str], value: float, timestamp: int | None, comma: bool
) -> None:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    quoted = (f'{key}="{text.translate(escapes)}"' for key, text in labels.items())
    inside = ",".join(quoted) + ("," if comma and labels else "")
    line = f"{name}{{{inside}}} {value}" + (f" {timestamp}" if timestamp is not None else "")
    (family,) = text_string_to_metric_families(line + "\n")
    (expected,) = family.samples
    read_name, read_labels, read_value = sample(line)
    assert read_name == expected.name
    assert dict(read_labels) == expected.labels
    assert read_value == expected.value or math.isinf(read_value)
