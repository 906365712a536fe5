"""Clients of a server in a process of their own, so that the load is not bound by one interpreter.

Started by bench_server.py with a JSON line {port, prompts, clients, tokens} on standard input; "ready" is printed, and
after a second line the clients begin. The answer is one JSON line: {begun, ended, answers: [[tokens, first, latency],
...]}, seconds of the machine's monotonic clock, answers in the order of the prompts.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

Answer = tuple[list[int], float, float]  # tokens; seconds to the first of them and to the last


def ask(connection: http.client.HTTPConnection, prompt: list[int], tokens: int) -> Answer:
    """One streamed greedy completion; RuntimeError with the server's words if it refuses."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True})
    begun = time.monotonic()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {response.read().decode()}")
    answer: list[int] = []
    first = 0.0
    for line in response:
        if line.startswith(b"data: {"):
            answer += json.loads(line[6:])["choices"][0]["token_ids"]
            first = first or time.monotonic() - begun
    return answer, first, time.monotonic() - begun


def load(port: int, prompts: list[list[int]], clients: int, tokens: int) -> list[Answer]:
    """Each client sends its next request when its last is answered."""

    def client(number: int) -> list[Answer]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        return [ask(connection, prompt, tokens) for prompt in prompts[number::clients]]

    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(client, range(clients)))
    return [parts[i % clients][i // clients] for i in range(len(prompts))]


def main() -> None:
    job = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    answers = load(job["port"], job["prompts"], job["clients"], job["tokens"])
    print(json.dumps({"begun": begun, "ended": time.monotonic(), "answers": answers}))


if __name__ == "__main__":
    main()
