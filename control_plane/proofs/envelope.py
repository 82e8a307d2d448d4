"""What a signature of ours is over: the pre-authentication encoding of DSSE envelopes, version 1. Pure.

See https://github.com/secure-systems-lab/dsse. The payload's type is signed with it, so that what was signed as one
thing passes for nothing else.
"""


def signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes to sign, or to verify a signature over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
