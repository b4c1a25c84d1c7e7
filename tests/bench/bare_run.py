"""One closed loop that only sends one request and receives replies, for the bench: what Python costs before any work.

A Load as JSON in, a Told as JSON out. Each reply is taken to come in one piece, as the bench's server sends it.
"""

import asyncio
import json
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

import uvloop
from clients import BODY

from provision.load.tls import Tls


class Vu(asyncio.Protocol):
    replies = 0

    def __init__(self, sock: socket.socket, request: bytes) -> None:
        self.sock, self.request, self.tls = sock, request, None

    def send(self) -> None:
        self.sock.send(self.tls.seal(self.request) if self.tls else self.request)

    def data_received(self, data: bytes) -> None:
        Vu.replies += 1
        self.send()


async def main(load: dict) -> dict:
    loop, address = asyncio.get_running_loop(), urlsplit(load["url"])
    context = ssl.create_default_context(cafile=load["ca_file"]) if load["ca_file"] else None
    body = json.dumps(BODY)
    request = (
        f"POST /rest/v1/rpc/scan_ticket_atomic HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"apikey: {'k' * 40}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    vus = []
    for _ in range(load["vus"]):
        sock = socket.create_connection((address.hostname, address.port))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        vu = Vu(sock, request)
        tls = Tls(context, address.hostname, vu) if context else None
        await loop.create_connection(lambda made=tls or vu: made, sock=sock)
        if tls:
            await tls.established
            vu.tls = tls
        vus.append(vu)
    took = -time.process_time()
    for vu in vus:
        vu.send()
    await asyncio.sleep(load["seconds"])
    took += time.process_time()
    return {"per_second": Vu.replies / load["seconds"], "cpu_us": took / Vu.replies * 1e6}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
