#!/usr/bin/env python3
"""Talks to a KMS host on loopback as a DCE/RPC client of another project does.

    drive.py PORT

Prints one JSON object: a key for each case, with what the host said. tests/foreign.rs
says what it should be.
"""

import json
import struct
import sys
import uuid

from impacket.dcerpc.v5 import transport
from impacket.dcerpc.v5.dtypes import ULONG
from impacket.dcerpc.v5.ndr import NDRCALL, NDRPOINTER, NDRUniConformantArray
from impacket.dcerpc.v5.rpcrt import DCERPCException
from impacket.uuid import uuidtup_to_bin

import lab_suite

KMS = ("51c82175-844e-4750-b0d8-ec255555bc06", "1.0")
NDR32 = ("8a885d04-1ceb-11c9-9fe8-08002b104860", "2.0")
NDR64 = ("71710533-beba-4937-8319-b5dbef9ccc36", "1.0")
SERVER_MANAGER = ("367abb81-9844-35f1-ad32-98f038001003", "2.0")


class Bytes(NDRUniConformantArray):
    item = "c"


class BytesPointer(NDRPOINTER):
    referent = (("Data", Bytes),)


class RequestActivation(NDRCALL):
    """Operation 0, as its IDL would say it; impacket does the marshalling."""

    opnum = 0
    structure = (("requestSize", ULONG), ("request", Bytes))


class RequestActivationResponse(NDRCALL):
    structure = (
        ("responseSize", ULONG),
        ("response", BytesPointer),
        ("ErrorCode", ULONG),
    )


class Client:
    """A connection to the host."""

    def __init__(self, port):
        binding = f"ncacn_ip_tcp:127.0.0.1[{port}]"
        self.dce = transport.DCERPCTransportFactory(binding).get_dce_rpc()
        self.dce.connect()
        self.machine = uuid.uuid4()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dce.disconnect()

    def bind(self, interface=KMS, syntax=NDR32, bogus=0):
        reply = self.dce.bind(
            uuidtup_to_bin(interface), bogus_binds=bogus, transfer_syntax=syntax
        )
        return reply["type"]

    def sealed(self, major):
        base = lab_suite.base_request(major, self.machine, f"impacket-v{major}")
        return lab_suite.seal(base)

    def ask(self, major, dce=None, object_id=None):
        """A whole request: marshalled, answered, opened and checked."""
        message = self.sealed(major)
        call = RequestActivation()
        call["requestSize"] = len(message)
        call["request"] = message
        answer = (dce or self.dce).request(call, uuid=object_id)
        said = b"".join(answer["response"])
        assert len(said) == answer["responseSize"], answer["responseSize"]
        response = lab_suite.open_response(message, said)
        assert response["client_machine_id"] == str(self.machine), response
        return response | {"return_code": answer["ErrorCode"]}

    def raw(self, opnum, stub):
        """The stub of the answer in hex, or impacket's words for the fault."""
        try:
            self.dce.call(opnum, stub)
            return self.dce.recv().hex()
        except DCERPCException as fault:
            return str(fault)


def whole(port, syntax):
    with Client(port) as client:
        bound = client.bind(syntax=syntax)
        return {"bound": bound, "answers": [client.ask(major) for major in (4, 5, 6)]}


def wrong_interface(port):
    with Client(port) as client:
        try:
            return client.bind(interface=SERVER_MANAGER)
        except DCERPCException as refusal:
            return str(refusal)


def wrong_syntax(port):
    with Client(port) as client:
        try:
            return client.bind(syntax=("00000000-1111-2222-3333-444444444444", "1.0"))
        except DCERPCException as refusal:
            return str(refusal)


def several_offers(port):
    """Three interfaces that nobody knows, then the real one."""
    with Client(port) as client:
        client.bind(bogus=3)
        return client.ask(6)


def wrong_opnum(port):
    with Client(port) as client:
        client.bind()
        return {"said": client.raw(1, b"anything"), "after": client.ask(5)}


def wrong_stub(port):
    with Client(port) as client:
        client.bind()
        stub = struct.pack("<II", 261, 260) + client.sealed(6)
        return {"said": client.raw(0, stub), "after": client.ask(5)}


def wrong_seal(port):
    with Client(port) as client:
        client.bind()
        message = bytearray(client.sealed(6))
        message[-1] ^= 1
        stub = struct.pack("<II", len(message), len(message)) + message
        return {"said": client.raw(0, stub), "after": client.ask(6)}


def with_object(port):
    with Client(port) as client:
        client.bind()
        return client.ask(6, object_id=uuid.uuid4().bytes_le)


def fragments(port, syntax, size):
    with Client(port) as client:
        client.bind(syntax=syntax)
        client.dce.set_max_fragment_size(size)
        return [client.ask(major) for major in (6, 4)]


def altered(port):
    """A second context on the connection, and both in use."""
    with Client(port) as client:
        client.bind()
        second = client.dce.alter_ctx(uuidtup_to_bin(KMS))
        after = client.ask(6, dce=second)
        # The two share a connection, and count their calls each for itself.
        return [after, client.ask(5)]


def main():
    port = int(sys.argv[1])
    cases = {
        "ndr32": lambda: whole(port, NDR32),
        "ndr64": lambda: whole(port, NDR64),
        "wrong_interface": lambda: wrong_interface(port),
        "wrong_syntax": lambda: wrong_syntax(port),
        "several_offers": lambda: several_offers(port),
        "wrong_opnum": lambda: wrong_opnum(port),
        "wrong_stub": lambda: wrong_stub(port),
        "wrong_seal": lambda: wrong_seal(port),
        "with_object": lambda: with_object(port),
        "fragments_ndr32": lambda: fragments(port, NDR32, 100),
        "fragments_ndr64": lambda: fragments(port, NDR64, 7),
        "altered": lambda: altered(port),
    }
    json.dump({name: case() for name, case in cases.items()}, sys.stdout)


if __name__ == "__main__":
    main()
