"""A server process on loopback, what its engine answers, and clients for it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

DEFAULT = Path(__file__).resolve().parents[2] / "build" / "server-tests-address-undefined"
BUILD = Path(os.environ.get("SPARLOW_SERVER_TESTS", DEFAULT))
VOCABULARY = 1000
MASK = (1 << 64) - 1


def expected_tokens(prompt: list[int], count: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[int]:
    """What the engine of fake_server.cpp answers; `seed` counts only at a temperature above 0."""
    state = seed
    for token in prompt:
        state = (state * 6364136223846793005 + token + 1) & MASK
    tokens = []
    for _ in range(count):
        state = (state * 6364136223846793005 + 8) & MASK
        tokens.append((state >> 33) % vocabulary)
    return tokens


class Server:
    """A server on a free port. Options are the server's; names in capitals go to its environment."""

    def __init__(self, folder: Path, program: Path = BUILD / "fake_server", **options: Any) -> None:
        words = [str(program), str(folder), "--port", "0"]
        environment = dict(os.environ)
        for name, value in options.items():
            if name.isupper():
                environment[name] = str(value)
            else:
                words += ["--" + name.replace("_", "-"), str(value)]
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        match = re.search(r"ready on http://127\.0\.0\.1:(\d+)", line)
        assert match, line + self.stop()[1]
        self.port = int(match[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code, messages = self.stop()
        if error is None:
            assert (code, messages) == (0, ""), f"exit code {code}: {messages}"

    def stop(self) -> tuple[int, str]:
        """Exit code and what was printed to standard error; with a sanitizer in the build, leaks are among it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, messages = self.process.communicate(timeout=60)
        return self.process.returncode, messages

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path: str) -> tuple[int, Any]:
        connection = self.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer

    def post(self, body: Any, timeout: float = 60) -> tuple[int, Any]:
        """One request; a body that is not bytes is sent as JSON."""
        status, _, answer = self.exchange(body, timeout)
        return status, answer

    def exchange(self, body: Any, timeout: float = 60) -> tuple[int, http.client.HTTPMessage, Any]:
        connection = self.connect(timeout)
        data = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.status, response.headers, json.loads(response.read())
        connection.close()
        return answer

    def stream(self, body: dict[str, Any]) -> list[Any]:
        """The events of a streamed answer, up to and with "[DONE]"."""
        connection = self.connect()
        data = json.dumps({**body, "stream": True})
        connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        events = events_of(response.read().decode())
        connection.close()
        return events

    def wait_for(self, timeout: float = 20, **wanted: int) -> None:
        """Until /health says so, e.g. ``running=0``."""
        end = time.monotonic() + timeout
        while True:
            health = self.get("/health")[1]
            if all(health[name] == value for name, value in wanted.items()):
                return
            assert time.monotonic() < end, (wanted, health)
            time.sleep(0.02)

    def wait_for_status(self, status: int, timeout: float = 20) -> None:
        """Until /health answers with it."""
        end = time.monotonic() + timeout
        while (answer := self.get("/health"))[0] != status:
            assert time.monotonic() < end, answer
            time.sleep(0.02)


def events_of(text: str) -> list[Any]:
    assert text.endswith("\n\n"), text
    blocks = text[:-2].split("\n\n")
    assert all(block.startswith("data: ") for block in blocks), blocks
    data = [block.removeprefix("data: ") for block in blocks]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def greedy(prompt: list[int], count: int, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": count, "temperature": 0, **fields}


def tokens_of(events: list[Any]) -> list[int]:
    return [token for event in events if "choices" in event for c in event["choices"] for token in c["token_ids"]]
