"""The `openai` client of the previous generation, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import QUESTION, SERVERS

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.testing.tenants import Tenant
    from tests.integration.conftest import RealModels


pytestmark = pytest.mark.xdist_group("engine")


SMOKE = """
import asyncio, sys
import openai

url, key = sys.argv[1:3]
assert openai.__version__.startswith("2."), openai.__version__
question = [{"role": "user", "content": sys.argv[3]}]
settings = dict(model="smollm2", messages=question, max_tokens=12, temperature=0)
client = openai.OpenAI(base_url=url, api_key=key)
whole = client.chat.completions.create(**settings).choices[0].message.content
assert "Paris" in whole, whole
parts = client.chat.completions.create(**settings, stream=True)
assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
vector = client.embeddings.create(model="smollm2-embedding", input="Hello").data[0].embedding
assert len(vector) == 576
assert {"smollm2"} < {model.id for model in client.models.list()}
try:
    client.chat.completions.create(**{**settings, "model": "nothing"})
except openai.NotFoundError as error:
    assert error.code == "model_not_found"
else:
    raise AssertionError("an unknown model was found")


async def again():
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
        reply = await client.chat.completions.create(**settings)
        assert reply.choices[0].message.content == whole


asyncio.run(again())
"""


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_client_of_the_previous_generation_works(
    tmp_path: Path, tenant: Tenant, real_models: RealModels
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    python = str(tmp_path / "bin" / "python")
    install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "openai>=2,<3"]
    subprocess.run([python, *install], check=True)
    for port in real_models.ports.values():
        given = [f"http://127.0.0.1:{port}/v1", tenant.key, QUESTION[0]["content"]]
        subprocess.run([python, "-c", SMOKE, *given], check=True, timeout=120)
    assert len(real_models.records(tenant)) == 4 * len(SERVERS)
