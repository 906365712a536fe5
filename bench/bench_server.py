"""The example server under load on this machine: requests and tokens per second, latencies.

    python bench/bench_server.py SERVER FOLDER [--clients 1,2,4,8] [--requests 32] [--prompt 64] [--tokens 64] [--out F]

SERVER is the program sparlow-server, FOLDER a model. One server with as many slots as the most clients runs throughout;
each client sends its next request when its last is answered. Answers are streamed, greedy, from random prompts of one
length. `same` is the fraction of requests whose tokens equal those with one client (other shapes, other rounding).
`first_ms` is the time to the first token, `latency_ms` to the last; `speedup` is tokens per second over those with one
client, the baseline. One JSON line a measurement.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results


@dataclass
class Answer:
    tokens: list[int]
    first: float  # seconds
    latency: float


def start(program: Path, folder: Path, slots: int, context: int) -> tuple[subprocess.Popen[str], int]:
    words = [program, folder, "--port", "0", "--slots", str(slots), "--queue", "0", "--context", str(context)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
    if not match:
        raise RuntimeError(f"{program} did not start; exit code {process.wait()}")
    return process, int(match[1])


def ask(connection: http.client.HTTPConnection, prompt: list[int], tokens: int) -> Answer:
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True})
    begun = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {response.read().decode()}")
    answer = Answer([], 0, 0)
    for line in response:
        if line.startswith(b"data: {"):
            answer.tokens += json.loads(line[6:])["choices"][0]["token_ids"]
            answer.first = answer.first or time.perf_counter() - begun
    answer.latency = time.perf_counter() - begun
    return answer


def load(port: int, prompts: list[list[int]], clients: int, tokens: int) -> tuple[list[Answer], float]:
    """All answers in the order of the prompts, and the seconds they took together."""

    def client(number: int) -> list[Answer]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        return [ask(connection, prompt, tokens) for prompt in prompts[number::clients]]

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(client, range(clients)))
    seconds = time.perf_counter() - begun
    return [parts[i % clients][i // clients] for i in range(len(prompts))], seconds


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{p}": round(1000 * ordered[(len(ordered) - 1) * p // 100], 1) for p in (50, 90, 99)}


def measure(port: int, prompts: list[list[int]], clients: int, tokens: int, baseline: dict[str, Any]) -> dict[str, Any]:
    answers, seconds = load(port, prompts, clients, tokens)
    rate = sum(len(answer.tokens) for answer in answers) / seconds
    baseline.setdefault("tokens", [answer.tokens for answer in answers])
    baseline.setdefault("rate", rate)
    same = sum(a.tokens == b for a, b in zip(answers, baseline["tokens"], strict=True))
    return {
        "clients": clients,
        "requests_per_s": round(len(prompts) / seconds, 2),
        "tokens_per_s": round(rate, 1),
        "speedup": round(rate / baseline["rate"], 2),
        "first_ms": percentiles([answer.first for answer in answers]),
        "latency_ms": percentiles([answer.latency for answer in answers]),
        "same": same / len(prompts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", default="1,2,4,8")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    clients = [1, *(int(count) for count in asked.clients.split(",") if count != "1")]
    chance = random.Random(0)
    prompts = [[chance.randrange(1000, 30000) for _ in range(asked.prompt)] for _ in range(asked.requests)]
    process, port = start(asked.server, asked.folder, max(clients), asked.prompt + asked.tokens)
    rows, baseline = [], {}
    try:
        load(port, prompts[:2], 1, 4)  # pages of the checkpoint
        for count in clients:
            rows.append(measure(port, prompts, count, asked.tokens, baseline))
            print(json.dumps(rows[-1]), flush=True)
    finally:
        process.terminate()
        process.wait(timeout=60)
    if asked.out:
        results.write(asked.out, "cpu", rows, prompt_tokens=asked.prompt, answer_tokens=asked.tokens)


if __name__ == "__main__":
    main()
