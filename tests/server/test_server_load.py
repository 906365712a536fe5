"""Many clients at once, some of them rude: the others' answers stay right, and what the rude ones held is freed."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from server_process import Server, expected_tokens, greedy, tokens_of

CLIENTS, ROUNDS = 64, 3


def ask(server: Server, client: int) -> None:
    """A few requests, whole and streamed, each with an answer of its own."""
    for turn in range(ROUNDS):
        prompt, count = [client, turn, 5], 10 + (7 * client + turn) % 90
        body = {"prompt": prompt, "max_tokens": count, "temperature": client % 2, "seed": client + 1}
        if (client + turn) % 3:
            status, answer = server.post(body)
            assert status == 200, answer
            tokens = answer["choices"][0]["token_ids"]
        else:
            tokens = tokens_of(server.stream(body)[:-1])
        assert tokens == expected_tokens(prompt, count, (client + 1) * (client % 2))


def ask_all(server: Server) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(ask, server, client) for client in range(CLIENTS)]:
            done.result()


def send(server: Server, body: dict[str, Any], **options: int) -> socket.socket:
    """A request whose answer somebody else reads, or nobody."""
    client = socket.socket()
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    client.connect(("127.0.0.1", server.port))
    data = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    client.sendall(head % len(data) + data)
    client.settimeout(60)
    return client


def test_many_clients_get_their_own_answers(folder: Path) -> None:
    with Server(folder, FAKE_STEP_MS=1) as server:
        ask_all(server)
        server.wait_for(running=0, waiting=0, connections=1)


def test_hanging_up_frees_the_place(folder: Path) -> None:
    with Server(folder, FAKE_STEP_MS=2, slots=4, queue=60, context=100_000) as server:
        long = [send(server, greedy([1], 90_000, stream=bool(i % 2))) for i in range(8)]
        server.wait_for(running=4, waiting=4)
        assert long[1].recv(15) == b"HTTP/1.1 200 OK"
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(ask, server, client) for client in range(16)]
            for client in long:
                client.close()
            for done in waiting:
                done.result()
        server.wait_for(running=0, waiting=0, connections=1)


def test_a_full_queue_says_when_to_come_back(folder: Path) -> None:
    with Server(folder, FAKE_STEP_MS=20, slots=1, queue=2, context=100_000) as server:
        clients = [send(server, greedy([1], 90_000)) for _ in range(3)]
        server.wait_for(running=1, waiting=2)
        status, headers, answer = server.exchange(greedy([1], 5))
        assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "1", "overloaded")
        clients[2].close()
        server.wait_for(running=1, waiting=1)
        clients[0].close()
        clients[1].close()
        assert server.post(greedy([1], 5))[0] == 200


def test_too_many_connections_are_turned_away(folder: Path) -> None:
    with Server(folder, connections=4) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        status, answer = server.get("/health")
        assert (status, answer["error"]["message"]) == (503, "the server has too many connections; try again soon")
        for client in idle:
            client.close()
        server.wait_for_status(200)


def test_slow_clients_are_cut_off_and_hold_nobody_up(folder: Path) -> None:
    with Server(folder, FAKE_STEP_MS=1, header_seconds=1, body_seconds=1) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(100)]
        begun = time.monotonic()
        for number, client in enumerate(slow):
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: "
            client.sendall(head if number % 2 else head + b"\r\nContent-Length: 50\r\n\r\n{")
        ask_all(server)
        while time.monotonic() < begun + 5:
            slow = [client for client in slow if not dripped(client)]
            if not slow:
                break
            time.sleep(0.1)
        assert not slow
        server.wait_for(running=0, waiting=0, connections=1)


def dripped(client: socket.socket) -> bool:
    """Sends one more byte; true when the server has closed the connection."""
    try:
        client.sendall(b"x")
        client.setblocking(False)
        return client.recv(1) == b""
    except BlockingIOError:
        client.setblocking(True)
        return False
    except OSError:
        return True


def test_a_client_that_does_not_read_is_cut_off(folder: Path) -> None:
    count = 1_500_000  # more than the buffers of a connection hold
    with Server(folder, write_seconds=1, header_seconds=600, context=2_000_000) as server:
        client = send(server, greedy([1], count, stream=True), SO_RCVBUF=4096)
        ask(server, 3)
        server.wait_for(running=0, connections=1)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(1 << 20):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"[DONE]" not in answer
        client.close()


def test_requests_sent_together_are_answered_in_turn(folder: Path) -> None:
    with Server(folder) as server:
        client = send(server, greedy([1], 4))
        data = json.dumps(greedy([2], 4)).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        bodies = [json.loads(part.split(b"\r\n\r\n")[1]) for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert [b["choices"][0]["token_ids"] for b in bodies] == [expected_tokens([i], 4) for i in (1, 2)]
        client.close()
