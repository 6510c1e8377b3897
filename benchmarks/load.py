"""An HTTP/1.1 load generator that costs little: one process, raw sockets, epoll, no parser.

python -m benchmarks.load 127.0.0.1:8000 --body cat.png --connections 8 --seconds 5
python -m benchmarks.load 127.0.0.1:8000 --body cat.png --connections 200 --rate 2000 --seconds 60

In: one request that is sent again and again. Without ``--rate`` every connection sends its next
request when the last one is answered (closed loop). With it, requests start on a fixed timetable,
independent of the answers (open loop), and latency counts from the moment the request was due.
Out: one JSON object with counts and latencies in milliseconds by status. ``ok`` counts answers
with status 200; one whose body does not contain ``--expect``, where given, counts as status 0, as
does a connection that breaks. The first ``--warm-up`` seconds do not count.
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import click

FAILED = 0
"""The status of a request whose connection broke or whose answer was wrong."""


class Connection:
    """One socket and the request on its way; ``due`` is when that request was to start."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.due = 0.0
        self.waiting = b""
        self.socket = self._open()

    def _open(self) -> socket.socket:
        opened = socket.create_connection(self.address, timeout=5)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def reopen(self) -> None:
        """Replace a broken connection."""
        self.socket.close()
        self.waiting = b""
        self.socket = self._open()

    def answer(self) -> tuple[int, bytes] | None:
        """Read what has come; the status and the body once the answer is complete.

        Raises ``OSError`` where the connection has ended before that.
        """
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("closed by the server")
        data = self.waiting = self.waiting + part if self.waiting else part
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = data[:end].lower()
        start = head.find(b"content-length: ")
        length = int(head[start + 16 :].split(b"\r", 1)[0]) if start >= 0 else 0
        if len(data) < end + 4 + length:
            return None
        self.waiting = b""
        return int(data[9:12]), data[end + 4 :]


def http_request(
    address: str, path: str, body: bytes, content_type: str, headers: Sequence[str] = ()
) -> bytes:
    """The bytes of one POST request; ``headers`` are further lines, as "Name: value"."""
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {address}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
        "\r\n",
    ]
    return "\r\n".join(head).encode() + body


def run(
    address: tuple[str, int],
    requests: list[bytes],
    *,
    connections: int,
    seconds: float,
    warm_up: float,
    rate: float | None = None,
    expect: bytes = b"",
) -> tuple[dict[int, list[float]], int]:
    """Send ``requests`` in turn.

    Returns the latencies in seconds by status, but for the warm-up's, and the count of all answers.
    """
    latencies: dict[int, list[float]] = {}
    idle = deque(Connection(address) for _ in range(connections))
    by_file = {each.socket.fileno(): each for each in idle}
    poll = select.epoll()
    for file in by_file:
        poll.register(file, select.EPOLLIN)
    sent = answered = 0

    def send(due: float) -> None:
        nonlocal sent
        connection = idle.popleft()
        connection.due = due
        try:
            connection.socket.sendall(requests[sent % len(requests)])
        except OSError:
            finish(connection, FAILED)
        sent += 1

    def finish(connection: Connection, status: int) -> None:
        if status == FAILED:
            by_file.pop(connection.socket.fileno(), None)
            connection.reopen()
            by_file[connection.socket.fileno()] = connection
            poll.register(connection.socket.fileno(), select.EPOLLIN)
        nonlocal answered
        answered += 1
        now = time.perf_counter()
        if now >= measured:
            latencies.setdefault(status, []).append(now - connection.due)
        idle.append(connection)

    begun = next_due = time.perf_counter()
    measured, end = begun + warm_up, begun + warm_up + seconds
    while (now := time.perf_counter()) < end:
        while idle and (rate is None or next_due <= now):
            send(next_due if rate else now)
            if rate:
                next_due += 1 / rate
        pause = min(end, next_due) - now if rate and idle else end - now
        for file, _ in poll.poll(max(pause, 0)):
            connection = by_file[file]
            try:
                answer = connection.answer()
            except (OSError, ValueError):
                finish(connection, FAILED)
                continue
            if answer is not None:
                status, body = answer
                wrong = status == 200 and expect not in body
                finish(connection, FAILED if wrong else status)
    for connection in by_file.values():
        connection.socket.close()
    return latencies, answered


def summary(latencies: dict[int, list[float]], seconds: float, answered: int) -> dict[str, object]:
    """Counts, the rate of the right answers, and each status's latencies in milliseconds.

    ``answered`` counts the warm-up's too, as does ``cpu_seconds``, which this process has used.
    """
    return {
        "answered": answered,
        "cpu_seconds": time.process_time(),
        "ok": len(latencies.get(200, [])),
        "rate": len(latencies.get(200, [])) / seconds,
        "statuses": {
            str(status): {
                "count": len(values),
                "p50": percentile(values, 50),
                "p99": percentile(values, 99),
                "max": max(values) * 1000,
            }
            for status, values in sorted(latencies.items())
        },
    }


def percentile(values: list[float], percent: float) -> float:
    """Of seconds, in milliseconds: the least that so many percent of the values do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1] * 1000


@click.command()
@click.argument("address")
@click.option("--path", default="/predict", show_default=True, help="With the query.")
@click.option(
    "--body",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    required=True,
    help="A file to send; several are sent in turn.",
)
@click.option("--content-type", default="image/png", show_default=True, help="Of every body.")
@click.option("--header", multiple=True, help='A further header line, as "Name: value".')
@click.option("--expect", default="", help="What a right answer contains.")
@click.option(
    "--connections",
    type=click.IntRange(1, 10_000),
    default=8,
    show_default=True,
    help="Open at a time, each with one request on its way.",
)
@click.option("--seconds", type=float, default=5, show_default=True, help="That are measured.")
@click.option(
    "--warm-up", type=float, default=1, show_default=True, help="Seconds before, not measured."
)
@click.option("--rate", type=float, help="Requests a second; by default, as fast as they return.")
def main(
    address: str,
    path: str,
    body: tuple[Path, ...],
    content_type: str,
    header: tuple[str, ...],
    expect: str,
    connections: int,
    seconds: float,
    warm_up: float,
    rate: float | None,
) -> None:
    """Send the requests to ADDRESS, as host:port, and print what came back."""
    host, _, port = address.rpartition(":")
    latencies, answered = run(
        (host, int(port)),
        [http_request(address, path, each.read_bytes(), content_type, header) for each in body],
        connections=connections,
        seconds=seconds,
        warm_up=warm_up,
        rate=rate,
        expect=expect.encode(),
    )
    click.echo(json.dumps(summary(latencies, seconds, answered)))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.load")
