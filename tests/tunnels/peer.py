"""A peer of tunnels on Python's `websockets`: one end of what peers.rs tells.

    peer.py pod HOST PORT              says "ready", then echoes until its input ends
    peer.py client URL SEED [SIZE]     says one line of JSON about what it went through; with messages
                                       of every size, or of one
    peer.py hold URL [SECONDS]         silent but for answers to pings: says "open", and how it ended
    peer.py echo URL COUNT             sends back what comes on so many connections, one after the other
    peer.py talk URL                   says "open", and sends for ever
    peer.py listen URL                 says "open", and is sent to for ever
    peer.py sockets PID                how a process has set its TCP connections: a line of JSON for all

The pod sends every message back as it came. A text `drip COUNT SIZE PAUSE` makes it send a message
of COUNT fragments with pauses; a text `report` makes it tell what it counted. peer.mjs is the same
on Node's `ws`.
"""

import asyncio
import ctypes
import hashlib
import json
import os
import random
import socket
import stat
import sys
import time

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode

FRAGMENT = 256 * 1024
ZLIB = {"level": 1}
TCP = ["TCP_NODELAY", "TCP_NOTSENT_LOWAT", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"]
SIZES = [0, 1, 125, 126, 127, 1000, 65535, 65536, 65537, 300_000, 1 << 20, (4 << 20) + 3]


class Counting:
    """Counts control frames. A pong that answers none of this side's pings is strange."""

    pings = 0
    pongs = 0
    strange = 0
    tells = False

    def process_event(self, event):
        if isinstance(event, Frame):
            if event.opcode is Opcode.PING:
                self.pings += 1
                if self.tells and self.pings == 2:
                    print("pinged twice", flush=True)
            elif event.opcode is Opcode.PONG:
                self.pongs += 1
                self.strange += bytes(event.data) not in self.pending_pings
        super().process_event(event)

    def counted(self):
        return {"pings": self.pings, "pongs": self.pongs, "strange": self.strange}


class CountingClient(Counting, ClientConnection):
    pass


class CountingServer(Counting, ServerConnection):
    pass


def noise(rng, size):
    """Half of the messages are worth compressing."""
    if rng.random() < 0.5:
        return rng.randbytes(size)
    block = rng.randbytes(1 + size // 64)
    return (block * 65)[:size]


def pieces(message, size=FRAGMENT):
    return [message[at : at + size] for at in range(0, len(message), size)]


def digest(message):
    kind = b"t" if isinstance(message, str) else b"b"
    data = message.encode() if isinstance(message, str) else message
    return hashlib.sha256(kind + data).hexdigest()


async def drip(socket, rng, count, size, pause):
    """Sends a message in fragments with pauses, its own pings between some of them."""
    hashed = hashlib.sha256(b"b")
    pongs = []

    async def fragments():
        for n in range(count):
            piece = noise(rng, size)
            hashed.update(piece)
            yield piece
            if n > count // 2 and rng.random() < 0.5:
                pongs.append(await socket.ping())
            await asyncio.sleep(pause)

    await socket.send(fragments())
    for pong in pongs:
        await asyncio.wait_for(pong, 20)
    return hashed.hexdigest()


async def answer(socket):
    rng = random.Random(7)
    try:
        async for message in socket:
            if isinstance(message, str) and message.startswith("drip "):
                count, size, pause = message.split()[1:]
                hashed = await drip(socket, rng, int(count), int(size), float(pause))
                await socket.send(hashed)
            elif message == "report":
                await socket.send(json.dumps(socket.counted()))
            elif len(message) > 8 << 20 or len(message) > 2 * FRAGMENT and rng.random() < 0.5:
                # What is compressed whole answers no ping meanwhile.
                await socket.send(pieces(message))
            else:
                await socket.send(message)
    except ConnectionClosed as closed:
        print(f"closed: {closed}", file=sys.stderr)


async def pod(host, port):
    options = ServerPerMessageDeflateFactory(compress_settings=ZLIB)
    server = serve(
        answer,
        host,
        int(port),
        compression=None,
        extensions=[options],
        max_size=None,
        ping_interval=None,
        create_connection=CountingServer,
    )
    async with server:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def dial(url):
    return connect(
        url,
        compression=None,
        extensions=[ClientPerMessageDeflateFactory(compress_settings=ZLIB)],
        max_size=None,
        ping_interval=None,
        proxy=None,
        create_connection=CountingClient,
    )


async def echoes(socket, rng, sizes):
    """Messages of these sizes in random order, several under way, own pings among them."""
    sent = []
    ahead = asyncio.Semaphore(4)
    rng.shuffle(sizes)

    async def send():
        pongs = []
        for size in sizes:
            await ahead.acquire()
            if size < 1 << 20 and rng.random() < 0.4:
                message = ("grüße \U0001f5a5" * (1 + size // 8))[:size]
            else:
                message = noise(rng, size)
            sent.append(digest(message))
            if len(message) > 100 and rng.random() < 0.5 or size > 8 << 20:
                await socket.send(pieces(message, max(7, min(FRAGMENT, size // 5))))
            else:
                await socket.send(message)
            if rng.random() < 0.3:
                pongs.append(await socket.ping())
        for pong in pongs:
            await asyncio.wait_for(pong, 20)

    sender = asyncio.create_task(send())
    for n in range(len(sizes)):
        hashed = None
        async for piece in socket.recv_streaming():
            text = isinstance(piece, str)
            hashed = hashed or hashlib.sha256(b"t" if text else b"b")
            hashed.update(piece.encode() if text else piece)
        assert hashed.hexdigest() == sent[n], f"message {n} came back as another one"
        ahead.release()
    await sender
    return len(sizes)


async def client(url, seed, size=None):
    rng = random.Random(int(seed))
    async with dial(url) as socket:
        assert socket.protocol.extensions, "permessage-deflate was not agreed on"
        messages = await echoes(socket, rng, [int(size)] if size else SIZES * 2)
        # The client is silent, in the middle of a message.
        await socket.send("drip 12 3000 0.12")
        message = await socket.recv()
        assert digest(message) == await socket.recv(), "a slow message came as another one"
        # The pod is.
        hashed = await drip(socket, rng, 12, 3000, 0.12)
        assert digest(await socket.recv()) == hashed, "a slow message came back as another one"
        # Both are.
        await asyncio.sleep(1.2)
        await socket.send("report")
        told = json.loads(await socket.recv())
        await socket.close(4001, "grüße")
        report = {"messages": messages, "client": socket.counted(), "pod": told}
        report["closed"] = [socket.close_code, socket.close_reason]
        print(json.dumps(report), flush=True)


async def hold(url, seconds=None):
    """Says nothing but pongs; after the given time, one word that must come back."""
    async with dial(url) as socket:
        socket.tells = seconds is None
        print("open", flush=True)
        begun = time.monotonic()
        try:
            if seconds:
                await asyncio.sleep(float(seconds))
                await socket.send("still")
                print(json.dumps({"said": await socket.recv(), **socket.counted()}), flush=True)
                await socket.close()
            else:
                await socket.wait_closed()
        except ConnectionClosed:
            pass
        lasted = time.monotonic() - begun
        report = {"code": socket.close_code, "lasted": lasted, **socket.counted()}
        print(json.dumps(report), flush=True)


async def echo(url, count):
    for _ in range(int(count)):
        async with dial(url) as socket:
            await answer(socket)
    print("done", flush=True)


async def talk(url):
    async with dial(url) as socket:
        print("open", flush=True)
        await drip(socket, random.Random(1), 1_000_000, 1000, 0.02)


async def listen(url):
    async with dial(url) as socket:
        await socket.send("drip 1000000 1000 0.02")
        print("open", flush=True)
        async for _ in socket.recv_streaming():
            pass


async def sockets(pid):
    pidfd_getfd = 438
    process = os.pidfd_open(int(pid))
    told = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        # A copy of the descriptor, not of the socket.
        copy = ctypes.CDLL(None).syscall(pidfd_getfd, process, int(number), 0)
        if copy < 0 or not stat.S_ISSOCK(os.fstat(copy).st_mode):
            continue
        with socket.socket(fileno=copy) as end:
            try:
                local, peer = (f"{host}:{port}" for host, port in (end.getsockname(), end.getpeername()))
            except (OSError, ValueError):
                continue
            options = {name: end.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in TCP}
            options["SO_KEEPALIVE"] = end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            told.append({"local": local, "peer": peer, **options})
    print(json.dumps(told), flush=True)


WHAT = {"pod": pod, "client": client, "hold": hold, "echo": echo, "talk": talk, "listen": listen, "sockets": sockets}
asyncio.run(WHAT[sys.argv[1]](*sys.argv[2:]))
