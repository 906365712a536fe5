"""The example server under load on this machine: requests and tokens per second, latencies, and right answers.

    python bench/bench_server.py SERVER MODEL [--dense MODEL] [--device cuda --processes 8] [--clients 1,2,4,8]
        [--requests 32] [--prompt 64] [--tokens 64] [--llama LLAMA] [--check] [--out FILE]

SERVER is the program sparlow-server, MODEL a folder or random:8b (random:8b:dense). A server with as many slots as the
most clients runs throughout; each client sends its next request when its last is answered. Answers are streamed,
greedy, from random prompts of one length. `speedup` is tokens per second over those with one client, `times_dense` over
those of the model of --dense. `first_ms` is the time to the first token, `latency_ms` to the last. One JSON line a
measurement.

`same` is the fraction of requests whose tokens equal those with one client, `engine` the fraction whose tokens with one
client equal what the program LLAMA answers to the same prompts. More clients make other shapes and so another rounding;
--check says what that is worth: `likeliest` is the fraction of all tokens that are also the likeliest of the same model
in float32 by transformers, after the same tokens, and `gap` by how much that model prefers another at worst (logits).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import results
from server_client import Answer
from server_judge import Judge, engine_share

Prompts = list[list[int]]
Timed = tuple[int, list[Answer], float]


def shared(asked: argparse.Namespace) -> list[str]:
    """Options of the server and of the engine by itself."""
    return ["--device", asked.device, "--context", str(asked.prompt + asked.tokens)]


@contextmanager
def serving(asked: argparse.Namespace, model: str, slots: int) -> Iterator[int]:
    """The port of a server that runs as long as the context."""
    words = [asked.server, model, *shared(asked), "--port", "0", "--slots", str(slots)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if not match:
            raise RuntimeError(f"{asked.server} did not start; exit code {process.wait()}")
        yield int(match[1])
    finally:
        process.terminate()
        process.wait(timeout=60)


def load(port: int, prompts: Prompts, clients: int, tokens: int, processes: int) -> tuple[list[Answer], float]:
    """All answers in the order of the prompts, and the seconds they took together."""
    count = min(processes, clients)
    workers = []
    for number in range(count):
        mine = clients // count + (number < clients % count)
        job = {"port": port, "prompts": prompts[number::count], "clients": mine, "tokens": tokens}
        program = [sys.executable, str(Path(__file__).with_name("server_client.py"))]
        worker = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert worker.stdin
        assert worker.stdout
        print(json.dumps(job), file=worker.stdin, flush=True)
        workers.append((worker, worker.stdin, worker.stdout))
    for _, _, output in workers:
        output.readline()
    for _, stdin, _ in workers:
        print(file=stdin, flush=True)
    parts = [json.loads(worker.communicate()[0] or "null") for worker, _, _ in workers]
    if None in parts:
        raise RuntimeError(f"a client of {clients} failed, see above")
    seconds = max(part["ended"] for part in parts) - min(part["begun"] for part in parts)
    return [parts[i % count]["answers"][i // count] for i in range(len(prompts))], seconds


def rate_of(answers: list[Answer], seconds: float) -> float:
    return sum(len(answer[0]) for answer in answers) / seconds


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{p}": round(1000 * ordered[(len(ordered) - 1) * p // 100], 1) for p in (50, 90, 99)}


def timed(asked: argparse.Namespace, model: str, clients: list[int], prompts: Prompts) -> Iterator[Timed]:
    """What every number of clients got, and the seconds it took; the first is one client."""
    with serving(asked, model, max(clients)) as port:
        load(port, prompts[:2], 1, 4, 1)  # pages of the checkpoint
        load(port, prompts[: max(clients)], max(clients), 4, asked.processes)  # graphs of a GPU
        for count in clients:
            yield count, *load(port, prompts, count, asked.tokens, asked.processes)


def measure(asked: argparse.Namespace, model: str, clients: list[int], prompts: Prompts) -> Iterator[dict[str, Any]]:
    """A row for every number of clients, judged when the server is gone: whoever judges computes beside it."""
    runs = list(timed(asked, model, clients, prompts))
    judge = Judge(model, asked.device) if asked.check else None
    alone = runs[0][1]
    for count, answers, seconds in runs:
        rate, first = rate_of(answers, seconds), rate_of(alone, runs[0][2])
        row: dict[str, Any] = {"model": "compressed" if model == asked.model else "dense", "clients": count}
        row |= {"requests_per_s": round(len(prompts) / seconds, 2), "tokens_per_s": round(rate, 1)}
        row |= {"speedup": round(rate / first, 2), "first_ms": percentiles([answer[1] for answer in answers])}
        row |= {"latency_ms": percentiles([answer[2] for answer in answers])}
        row["same"] = sum(a[0] == b[0] for a, b in zip(answers, alone, strict=True)) / len(prompts)
        if asked.llama and count == 1:
            words = [asked.llama, model, *shared(asked), "--tokens", str(asked.tokens)]
            row["engine"] = engine_share(words, prompts, answers)
        yield row | (judge(prompts, answers) if judge else {})


def beside_dense(asked: argparse.Namespace, clients: list[int], prompts: Prompts) -> list[dict[str, Any]]:
    dense: dict[int, float] = {}
    rows = []
    for model in filter(None, (asked.dense, asked.model)):
        for row in measure(asked, model, clients, prompts):
            if row["model"] == "dense":
                dense[row["clients"]] = row["tokens_per_s"]
            elif dense:
                row["times_dense"] = round(row["tokens_per_s"] / dense[row["clients"]], 3)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("model")
    parser.add_argument("--dense", help="the model to compare with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clients", default="1,2,4,8")
    parser.add_argument("--processes", type=int, default=1, help="of Python, over which the clients are spread")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--llama", help="the program llama, to compare tokens with")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    clients = [1, *(int(count) for count in asked.clients.split(",") if count != "1")]
    if asked.requests < max(clients):
        parser.error(f"--requests {asked.requests}: the most clients are {max(clients)}, each sends one at least")
    chance = random.Random(0)
    prompts = [[chance.randrange(1000, 30000) for _ in range(asked.prompt)] for _ in range(asked.requests)]
    rows = beside_dense(asked, clients, prompts)
    if asked.out:
        sizes = {"prompt_tokens": asked.prompt, "answer_tokens": asked.tokens, "requests": asked.requests}
        results.write(asked.out, asked.device, rows, **sizes)


if __name__ == "__main__":
    main()
