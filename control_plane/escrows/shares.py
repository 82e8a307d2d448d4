"""A secret in shares: k of n give it back, k - 1 give nothing (SLIP-0039). Pure, but for randomness.

A share is text: words that people could write down, with a checksum. That those of one secret come together is seen
before they are combined, and that they give the secret by its digest.
"""

from collections.abc import Sequence

from shamir_mnemonic import MnemonicError, combine_mnemonics, generate_mnemonics


class SharesError(Exception):
    """The shares give nothing: damaged, too few, too many, or of different secrets."""

    def __init__(self) -> None:
        """Say no more: what the library says quotes shares."""
        super().__init__("the shares do not give a secret together")


def split(secret: bytes, *, threshold: int, count: int) -> list[bytes]:
    """Split a secret of 32 bytes into `count` shares, `threshold` of which give it back. Some milliseconds."""
    # Without a passphrase iterations protect nothing: the secret is random, and each share is sealed.
    (shares,) = generate_mnemonics(1, [(threshold, count)], secret, iteration_exponent=0)
    return [share.encode() for share in shares]


def combine(shares: Sequence[bytes]) -> bytes:
    """Return the secret; raise SharesError unless these are as many of its shares as it takes."""
    try:
        return combine_mnemonics([share.decode() for share in shares])
    except (MnemonicError, UnicodeDecodeError, ValueError):
        raise SharesError from None
