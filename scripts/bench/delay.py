"""A TCP proxy that makes a store on this machine as far away as another region: `delay.py LISTEN UPSTREAM ROUND_TRIP_SECONDS`.

Bytes arrive half a round trip after they were sent, in both directions, however many are under way. A new connection takes a whole
round trip before its first byte passes. The bandwidth is the machine's own.
"""

import asyncio
import contextlib
import sys

PIECE = 1 << 16


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, half: float) -> None:
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    async def deliver() -> None:
        while (item := await queue.get())[1]:
            due, piece = item
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            writer.write(piece)
            await writer.drain()

    delivering = asyncio.ensure_future(deliver())
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE):
            queue.put_nowait((loop.time() + half, piece))
    queue.put_nowait((0.0, b""))
    with contextlib.suppress(ConnectionError):
        await delivering
    writer.close()


async def main(listen: int, upstream: int, round_trip: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(round_trip)
        there, back = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(pump(reader, back, round_trip / 2), pump(there, writer, round_trip / 2))

    server = await asyncio.start_server(connected, "127.0.0.1", listen)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
