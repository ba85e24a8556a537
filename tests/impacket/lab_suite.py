"""KMS messages in the lab suite, from docs/kms-wire.md and kms-core/src/lab.rs.

Written anew, so that a mistake in the library's codec is no mistake here. The key
is the project's own and public; no product knows it.
"""

import hashlib
import hmac
import struct
import uuid

from Cryptodome.Cipher import AES
from Cryptodome.Hash import CMAC
from Cryptodome.Util.Padding import pad, unpad

KEY = b"kms-core lab key"
WINDOWS = uuid.UUID("55c92734-d682-4d71-983e-d6ec3f16059f")
WINDOWS_10_ENTERPRISE = uuid.UUID("73111121-5638-40f6-bc11-f1d7b0d64300")
WINDOWS_10 = uuid.UUID("58e2134f-8e11-4d17-9cb2-91069c151148")
CLIENT_TIME = 134_200_000_000_000_000


def version(major):
    return struct.pack("<HH", 0, major)


def base_request(major, machine, workstation):
    """The 236 bytes of section 3.1."""
    name = workstation.encode("utf-16-le").ljust(128, b"\0")
    head = version(major) + struct.pack("<III", 0, 2, 43200)
    ids = [WINDOWS, WINDOWS_10_ENTERPRISE, WINDOWS_10, machine]
    base = head + b"".join(i.bytes_le for i in ids)
    base += struct.pack("<IQ", 25, CLIENT_TIME) + bytes(16) + name
    assert len(base) == 236
    return base


def tag(message):
    return CMAC.new(KEY, message, ciphermod=AES).digest()


def mac(field, *parts):
    return hmac.new(KEY, field + b"".join(parts), hashlib.sha256).digest()[:16]


def seal(base, iv=b"an IV of 16 byte"):
    """A request in the envelope of its version, section 4."""
    (major,) = struct.unpack_from("<H", base, 2)
    if major == 4:
        return base + tag(base)
    region = AES.new(KEY, AES.MODE_CBC, iv).encrypt(pad(base, 16))
    return version(major) + iv + region


def open_response(request, message):
    """The response as a dict; raises where a check does not hold."""
    (major,) = struct.unpack_from("<H", message, 2)
    if major == 4:
        region, end = message, message[-16:]
        base = base_response(region)
        check(end, tag(message[:-16]), "tag")
        check(len(base["raw"]) + 16, len(message), "length")
        return told(base)
    iv = message[4:20]
    region = unpad(AES.new(KEY, AES.MODE_CBC, iv).decrypt(message[20:]), 16)
    base = base_response(region)
    check(base["raw"][:4], message[:4], "inner version")
    rest = region[len(base["raw"]) :]
    check(rest[:16], mac(b"request", request), "check field A")
    check(rest[16:48], hashlib.sha256(iv + base["raw"]).digest(), "check field B")
    if major == 5:
        check(len(rest), 48, "length")
        return told(base)
    hardware_id = rest[48:56]
    check(rest[56:72], mac(b"hardware", hardware_id, base["raw"]), "check field C")
    check(rest[72:], mac(b"integrity", region[:-16]), "integrity tag")
    return told(base) | {"hardware_id": hardware_id.hex()}


def base_response(region):
    """Section 3.2."""
    (length,) = struct.unpack_from("<I", region, 4)
    at = 8 + length
    epid = region[8:at].decode("utf-16-le")
    assert epid.endswith("\0") and "\0" not in epid[:-1], epid
    machine = uuid.UUID(bytes_le=region[at : at + 16])
    time, clients, activation, renewal = struct.unpack_from("<QIII", region, at + 16)
    check(time, CLIENT_TIME, "client time")
    return {
        "raw": region[: at + 36],
        "protocol": struct.unpack_from("<H", region, 2)[0],
        "epid": epid[:-1],
        "client_machine_id": str(machine),
        "active_clients": clients,
        "activation_interval": activation,
        "renewal_interval": renewal,
    }


def told(base):
    return {key: value for key, value in base.items() if key != "raw"}


def check(found, expected, what):
    if found != expected:
        raise ValueError(f"{what}: {found!r} is not {expected!r}")
