"""A pod or a service that tells its name, and keeps account of what it was sent.

    pod.py NAME ADDRESS PORT    says "ready"; for each line of input one line of JSON: its account

A request is answered with the name. On a WebSocket every binary message is a number (8 bytes), a
CRC-32 of what follows (4 bytes), and bytes. The numbers of a tunnel count from 0; each message is
sent back with the name put before its bytes, and a CRC-32 of both.
"""

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import zlib

NAME = sys.argv[1].encode()
account = {"requests": 0, "tunnels": 0, "pings": 0, "messages": 0, "bytes": 0, "bad": []}
lock = threading.Lock()


def count(**figures):
    with lock:
        for name, figure in figures.items():
            account[name] += figure


def frame(code, payload):
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | code, size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | code, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | code, 127, size)
    return head + payload


def exactly(stream, size):
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def message(stream):
    first, second = exactly(stream, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", exactly(stream, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", exactly(stream, 8))
    mask = exactly(stream, 4) if second & 0x80 else None
    payload = exactly(stream, size)
    if mask and size:
        key = (mask * (size // 4 + 1))[:size]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return first & 15, payload


def tunnel(connection, stream):
    count(tunnels=1)
    number = 0
    while True:
        code, payload = message(stream)
        if code == 8:
            connection.sendall(frame(8, payload))
            return
        if code == 9:
            count(pings=1)
            connection.sendall(frame(10, payload))
        if code != 2:
            continue
        got, check = struct.unpack("!QI", payload[:12])
        data = payload[12:]
        if got != number or zlib.crc32(data) != check:
            with lock:
                account["bad"].append(f"{got} instead of {number}, {len(data)} bytes")
        number += 1
        count(messages=1, bytes=len(data))
        data = NAME + b"\0" + data
        connection.sendall(frame(2, struct.pack("!QI", got, zlib.crc32(data)) + data))


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as stream:
        try:
            while True:
                line, fields = stream.readline(), {}
                if not line:
                    return
                while (field := stream.readline().strip()) != b"":
                    name, _, value = field.partition(b":")
                    fields[name.strip().lower()] = value.strip()
                if b"upgrade" in fields:
                    key = fields[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                    accept = base64.b64encode(hashlib.sha1(key).digest())
                    connection.sendall(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                        b"Upgrade: websocket\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                    )
                    return tunnel(connection, stream)
                exactly(stream, int(fields.get(b"content-length", 0)))
                count(requests=1)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(NAME), NAME))
        except (EOFError, OSError):
            pass


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


listener = socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=256)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print("ready", flush=True)
for _ in sys.stdin:
    with lock:
        print(json.dumps(account), flush=True)
