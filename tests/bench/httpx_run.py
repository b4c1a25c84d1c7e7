"""One closed loop of httpx for the bench: a Load as JSON in, a Told as JSON out."""

import asyncio
import json
import ssl
import sys
import time

import httpx
import uvloop
from clients import BODY


async def main(load: dict) -> dict:
    verify = ssl.create_default_context(cafile=load["ca_file"]) if load["ca_file"] else True
    limits = httpx.Limits(max_connections=load["vus"], max_keepalive_connections=load["vus"])
    count, took = 0, -time.process_time()
    async with httpx.AsyncClient(base_url=load["url"], verify=verify, limits=limits, timeout=60) as client:
        end = time.perf_counter() + load["seconds"]

        async def vu() -> None:
            nonlocal count
            while time.perf_counter() < end:
                reply = await client.post("/rest/v1/rpc/scan_ticket_atomic", json=BODY, headers={"apikey": "k" * 40})
                assert reply.json()[0]["success"] is True
                count += 1

        await asyncio.gather(*(vu() for _ in range(load["vus"])))
    took += time.process_time()
    return {"per_second": count / load["seconds"], "cpu_us": took / count * 1e6}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
