"""Mints a desktop token as abcdesktop's API server does, with the libraries it uses.

usage: tokens.py public|private SIGNING_PRIVATE_PEM PAYLOAD_PEM TARGET TTL

`public` encrypts the target with the payload public key (PKCS#1 v1.5), as the
released API server does. `private` makes the hash with the payload private key,
as the configuration documents describe it. TTL may be negative. Prints the token.
"""

import base64
import subprocess
import sys
import time

import jwt
from Crypto.Cipher import PKCS1_v1_5
from Crypto.PublicKey import RSA


def encrypted_with_public_key(payload_pem: str, target: bytes) -> bytes:
    with open(payload_pem, "rb") as file:
        return PKCS1_v1_5.new(RSA.import_key(file.read())).encrypt(target)


def signed_with_private_key(payload_pem: str, target: bytes) -> bytes:
    return subprocess.run(
        ["openssl", "rsautl", "-sign", "-inkey", payload_pem],
        input=target,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a note on every call that rsautl is deprecated
        check=True,
    ).stdout


def mint(mode: str, signing_pem: str, payload_pem: str, target: str, ttl: int) -> str:
    conceal = {"public": encrypted_with_public_key, "private": signed_with_private_key}[mode]
    sealed = conceal(payload_pem, target.encode("ascii"))
    now = int(time.time())
    claims = {
        "key": 0,
        "nfb": now,  # so spelled by the API server
        "hash": base64.b64encode(sealed).decode("ascii"),
        "exp": now + ttl,
    }
    with open(signing_pem, encoding="ascii") as file:
        return jwt.encode(claims, file.read(), algorithm="RS256")


if __name__ == "__main__":
    if len(sys.argv) != 6 or sys.argv[1] not in ("public", "private"):
        sys.exit(__doc__)
    print(mint(*sys.argv[1:5], int(sys.argv[5])))
