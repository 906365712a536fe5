"""Requests and their answers, one at a time."""

from __future__ import annotations

import json
import random
import socket
from typing import Any

import pytest
from server_process import Server, expected_tokens, greedy, tokens_of
from tokenizers import Tokenizer


def test_tokens_and_counts(server: Server) -> None:
    status, answer = server.post(greedy([1, 2, 3], 5, model="small", user="me", logprobs=None, n=1))
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["model"] == "small"
    assert answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    assert choice["token_ids"] == expected_tokens([1, 2, 3], 5)
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_the_seed_decides_when_sampling(server: Server) -> None:
    body = {"prompt": [[4, 5]], "max_tokens": 8, "temperature": 0.7, "top_p": 0.9}
    seeded = server.post({**body, "seed": 11})[1]["choices"][0]["token_ids"]
    assert seeded == expected_tokens([4, 5], 8, seed=11)
    first, second = (server.post(body)[1]["choices"][0]["token_ids"] for _ in range(2))
    assert first != second


def test_text_in_and_out(server: Server, folder: Any) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("A sparse layer", "naïve 漢字 👩"):
        prompt = tokenizer.encode(text).ids
        _, answer = server.post({"prompt": text, "max_tokens": 200, "temperature": 0})
        tokens = expected_tokens(prompt, 200)
        assert answer["choices"][0]["token_ids"] == tokens
        assert answer["choices"][0]["text"] == tokenizer.decode(tokens)
        assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_a_stream_adds_up_to_the_whole(server: Server) -> None:
    body = greedy([7], 300)
    whole = server.post(body)[1]["choices"][0]
    events = server.stream({**body, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == {"prompt_tokens": 1, "completion_tokens": 300, "total_tokens": 301}
    pieces = [event["choices"][0] for event in events[:-2]]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert [token for piece in pieces for token in piece["token_ids"]] == whole["token_ids"]
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]


def test_stop_texts_end_an_answer_and_are_no_part_of_it(server: Server) -> None:
    whole = server.post(greedy([7], 300))[1]["choices"][0]["text"]
    stop = whole[200:204]
    for stops in (stop, ["never to be seen", stop]):
        choice = server.post(greedy([7], 300, stop=stops))[1]["choices"][0]
        assert choice["text"] == whole[: whole.index(stop)]
        assert choice["finish_reason"] == "stop"
        events = server.stream(greedy([7], 300, stop=stops))
        assert "".join(e["choices"][0]["text"] for e in events[:-1]) == choice["text"]
    server.wait_for(running=0, waiting=0)


def test_an_end_of_sequence_token_ends_an_answer(folder: Any) -> None:
    tokens = expected_tokens([9], 20)
    end = tokens[6]
    with Server(folder, FAKE_END=end) as server:
        choice = server.post(greedy([9], 20))[1]["choices"][0]
    assert choice["token_ids"] == tokens[: tokens.index(end) + 1]
    assert choice["finish_reason"] == "stop"


def test_models_and_health(server: Server) -> None:
    status, models = server.get("/v1/models")
    assert (status, [model["id"] for model in models["data"]]) == (200, ["small"])
    assert server.get("/v1/models/small")[1] == models["data"][0]
    status, health = server.get("/health?verbose")
    assert (status, health["status"], health["slots"]) == (200, "ok", 8)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b'{"prompt": [1', None, "not valid JSON"),
        (b"", None, "not valid JSON"),
        (b'{"prompt": "\xff"}', None, "not valid JSON"),
        (b'{"prompt": [1], "seed": 1e999}', None, "not valid JSON"),
        (b"[" * 200_000, None, "nested deeper than 8 levels"),
        (b'{"stop": %b%b}' % (b"[" * 400_000, b"]" * 400_000), None, "nested deeper than 8 levels"),
        (b"[1]", None, "must be a JSON object"),
        ({}, "prompt", "is missing"),
        ({"prompt": None}, "prompt", "is missing"),
        ({"prompt": []}, "prompt", "has no tokens"),
        ({"prompt": ""}, "prompt", "has no tokens"),
        ({"prompt": 7}, "prompt", "a text or a list of token ids"),
        ({"prompt": [1, "a"]}, "prompt", '"a" is not a token id from 0 to 999'),
        ({"prompt": [1000]}, "prompt", "1000 is not a token id"),
        ({"prompt": [-1]}, "prompt", "-1 is not a token id"),
        ({"prompt": [1.5]}, "prompt", "1.5 is not a token id"),
        ({"prompt": [2**64]}, "prompt", "is not a token id"),
        ({"prompt": [[1], [2]]}, "prompt", "one prompt a request"),
        ({"prompt": [1] * 2040}, "prompt", "2040 tokens and max_tokens 16 are more than the context of 2048"),
        ({"prompt": [1], "max_tokens": 0}, "max_tokens", "from 1 to the context of 2048 tokens, not 0"),
        ({"prompt": [1], "max_tokens": "9"}, "max_tokens", 'not "9"'),
        ({"prompt": [1], "temperature": -0.1}, "temperature", "from 0.0 to 2.0, not -0.1"),
        ({"prompt": [1], "temperature": True}, "temperature", "not true"),
        ({"prompt": [1], "top_p": 0}, "top_p", "above 0.0, at most 1.0, not 0"),
        ({"prompt": [1], "seed": 1.5}, "seed", "whole number, not 1.5"),
        ({"prompt": [1], "stop": [1]}, "stop", "1 to 1024 bytes"),
        ({"prompt": [1], "stop": ""}, "stop", "1 to 1024 bytes"),
        ({"prompt": [1], "stop": ["a"] * 5}, "stop", "at most 4"),
        ({"prompt": [1], "stream": 1}, "stream", "true or false, not 1"),
        ({"prompt": [1], "stream_options": {"x": 1}}, "stream_options", 'unknown field "x"'),
        ({"prompt": [1], "stream_options": 1}, "stream_options", "must be an object"),
        ({"prompt": [1], "n": 2}, "n", "only 1 is supported"),
        ({"prompt": [1], "presence_penalty": 0.5}, "presence_penalty", "only 0 is supported"),
        ({"prompt": [1], "echo": True}, "echo", "is not supported"),
        ({"prompt": [1], "user": 3}, "user", "must be a text"),
        ({"prompt": [1], "prompts": 1}, "prompts", "unknown field"),
        ({"prompt": [13, 1]}, None, "no luck with 13 1"),  # the engine's own refusal
    ],
)
def test_bad_requests_name_the_field(server: Server, body: Any, field: str | None, message: str) -> None:
    for stream in (None, False, True):
        asked = {**body, "stream": stream} if isinstance(body, dict) and "stream" not in body else body
        status, answer = server.post(asked)
        error = answer["error"]
        assert (status, error["type"], error["param"]) == (400, "invalid_request_error", field), error
        assert message in error["message"]


def test_mangled_bodies_get_an_answer(server: Server) -> None:
    chance = random.Random(2)
    body = json.dumps({"prompt": [1, 2], "max_tokens": 2, "temperature": 0.5, "seed": 3, "stop": ["a"], "user": "é"})
    connection = server.connect()
    for _ in range(500):
        mangled = bytearray(body.encode())
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(mangled))
            mangled[at : at + chance.randrange(3)] = chance.choice(
                [b"", b'"', b"9", b"[", b"}", b"\xff", b"null", b"-"]
            )
        connection.request("POST", "/v1/completions", bytes(mangled), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status in {200, 400}, (mangled, answer)
        assert ("error" in answer) == (response.status == 400)
    connection.close()


def test_another_model_is_not_found(server: Server) -> None:
    status, answer = server.post({"prompt": [1], "model": "large"})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/completion", {}, 404),
        ("GET", "/v1/completions", {}, 405),
        ("DELETE", "/health", {}, 405),
        ("POST", "/v1/models", {}, 405),
        ("POST", "/v1/completions", {}, 415),
        ("POST", "/v1/completions", {"Content-Type": "text/plain"}, 415),
    ],
)
def test_wrong_paths_methods_and_types(
    server: Server, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    connection = server.connect()
    for _ in range(2):  # the connection can go on
        connection.request(method, path, "{}", headers)
        response = connection.getresponse()
        assert response.status == status
        assert json.loads(response.read())["error"]["type"] == "invalid_request_error"
        assert (response.headers["Allow"] is not None) == (status == 405)
    connection.close()


def talk(server: Server, request: bytes) -> bytes:
    """All that the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"Content-Length: 999999999999\r\n\r\n", 413),
        (HEAD + b"Content-Length: 2000000\r\n\r\n" + b" " * 2_000_000, 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%b\r\n" % (b" " * 0x10000) * 20, 413),
        (HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS
        (b"GET\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\n\r\n" * 3 + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
    ],
)
def test_what_is_read_before_a_request_is_one(server: Server, request_bytes: bytes, status: int) -> None:
    answer = talk(server, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == request_bytes.count(b"/health") or status != 200


def test_a_stream_for_http_1_0_ends_with_the_connection(server: Server) -> None:
    body = json.dumps(greedy([7], 9, stream=True)).encode()
    answer = talk(server, HEAD.replace(b"1.1", b"1.0") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    head, _, stream = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    events = [json.loads(block[6:]) for block in stream.decode().split("\n\n")[:-2]]
    assert tokens_of(events) == expected_tokens([7], 9)


def test_a_client_may_wait_for_its_invitation(server: Server) -> None:
    body = json.dumps(greedy([7], 9)).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(body)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
