"""Names that somebody might try to leave a folder with, put together from what such names are made of."""

import random
import unicodedata
from collections.abc import Iterator
from typing import Final

# Each of these in every spelling that some layer or other undoes.
DOTS: Final = [
    "..", ".", "...", "....//", "%2e%2e", "%2E%2e", "%252e%252e", "..%00", "..;", "..%c0%af", "%c0%ae%c0%ae",
    "%u002e%u002e", "\u2024\u2024", "\uff0e\uff0e", "\u2025", "\u2026", ".\u200b.", ".\u202e.", "..\0", "\\..", "~",
    "~root", "$HOME",
]  # fmt: skip
SLASHES: Final = [
    "/", "//", "\\", "\\\\", "%2f", "%2F", "%5c", "%252f", "\u2215", "\u2044", "\uff0f", "\u29f8", "\u2216", "/./",
]  # fmt: skip
# Of the form that paths have: what is made of these alone may well be a path, and then stays where it belongs.
WORDS: Final = [
    "org_2", "org_10", "org_1", "storage", "certificates", "a.pem", "con", "nul", "aux", "com1", "lpt1", "dev", "null",
    "proc", "self", "root", "etc", "passwd", "staging", "objects", "c", "x" * 128,
]  # fmt: skip
STRANGE: Final = [
    "Org_2", "ORG_2", "A.PEM", "CON", "\u212aelvin", "\u0131nit", "stra\u00dfe", "\u017ftorage", "\u043erg_2",
    "\uff4frg_2", unicodedata.normalize("NFC", "ne\u0301"), unicodedata.normalize("NFD", "n\u00e9"), ".staging",
    ".hidden", "-rf", "a.pem.", "a.pem ", " a.pem", "a.pem\n", "a\npem", "a\rpem", "a\tpem", "\0", "a\0.pem",
    "a.pem\0.txt", "a:b", "C:", "a.pem::$DATA", "*", "?", "[a-z]", "{a,b}", "a|b", "a;b", "a&b", "a'b", 'a"b', "a`b",
    "<a>", "a@2", "a.pem@2", "@", "a@02", "a#b", "a=b", "a+b", "\ud800", "\u202egpj.a", "\ufeffa", "a\u200bb",
    "\U0001f512", "x" * 129, "x" * 300, "\u00e9" * 130, "",
]  # fmt: skip
LEADS: Final = [
    "", "", "", "/", "//", "\\\\", "C:\\", "C:", "file:///", "s3://", "./", "/storage/org_2/", "/dev/",
    "/proc/self/root/",
]  # fmt: skip


def names(count: int, *, seed: int) -> Iterator[str]:
    """Draw so many different names, the same ones for the same seed."""
    draw, drawn = random.Random(seed), set[str]()
    while len(drawn) < count:
        name = _name(draw)
        if name not in drawn:
            drawn.add(name)
            yield name


def _name(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(1, 5)):
        kind = draw.choices([WORDS, DOTS, STRANGE], weights=[4, 3, 3])[0]
        parts += [draw.choice(kind), draw.choice(SLASHES) if draw.random() < 0.3 else "/"]
    name = draw.choice(LEADS) + "".join(parts[:-1])
    if draw.random() < 0.05:
        name += "/" * draw.randint(1, 3)
    if draw.random() < 0.03:
        name = "/".join([name] * draw.randint(4, 9))
    return name
