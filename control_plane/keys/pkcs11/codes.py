"""The numbers of PKCS#11 v2.40 that we use, and what an error says of the device. Pure."""

from enum import IntEnum, IntFlag
from typing import Final


class Rv(IntEnum):
    """What a function returns. A device may return others: they are kept as numbers."""

    OK = 0x000
    HOST_MEMORY = 0x002
    SLOT_ID_INVALID = 0x003
    GENERAL_ERROR = 0x005
    FUNCTION_FAILED = 0x006
    DATA_INVALID = 0x020
    DEVICE_ERROR = 0x030
    DEVICE_MEMORY = 0x031
    DEVICE_REMOVED = 0x032
    ENCRYPTED_DATA_INVALID = 0x040
    ENCRYPTED_DATA_LEN_RANGE = 0x041
    AEAD_DECRYPT_FAILED = 0x042
    KEY_HANDLE_INVALID = 0x060
    OBJECT_HANDLE_INVALID = 0x082
    OPERATION_ACTIVE = 0x090
    OPERATION_NOT_INITIALIZED = 0x091
    PIN_INCORRECT = 0x0A0
    PIN_INVALID = 0x0A1
    PIN_LEN_RANGE = 0x0A2
    PIN_EXPIRED = 0x0A3
    PIN_LOCKED = 0x0A4
    SESSION_CLOSED = 0x0B0
    SESSION_HANDLE_INVALID = 0x0B3
    TOKEN_NOT_PRESENT = 0x0E0
    TOKEN_NOT_RECOGNIZED = 0x0E1
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


class Attribute(IntEnum):
    """What an object has."""

    CLASS = 0x000
    TOKEN = 0x001
    PRIVATE = 0x002
    LABEL = 0x003
    KEY_TYPE = 0x100
    ID = 0x102
    SENSITIVE = 0x103
    ENCRYPT = 0x104
    DECRYPT = 0x105
    WRAP = 0x106
    UNWRAP = 0x107
    SIGN = 0x108
    VERIFY = 0x10A
    DERIVE = 0x10C
    VALUE_LEN = 0x161
    EXTRACTABLE = 0x162
    MODIFIABLE = 0x170


class TokenFlag(IntFlag):
    """How a token is."""

    USER_PIN_INITIALIZED = 0x008
    TOKEN_INITIALIZED = 0x400


SECRET_KEY: Final = 0x04
AES: Final = 0x1F
AES_KEY_GEN: Final = 0x1080
AES_GCM: Final = 0x1087
OS_LOCKING_OK: Final = 0x02
"""Without it, and without mutexes of one's own, a library may use none at all: SoftHSM then returns wrong bytes."""
RW_SESSION: Final = 0x02
SERIAL_SESSION: Final = 0x04
SO: Final = 0
USER: Final = 1
USER_FUNCTIONS: Final = (1, 3)
"""The states of a session whose user has logged in, read-only and read-write."""

SESSION_LOST: Final = frozenset(
    {
        Rv.SESSION_CLOSED,
        Rv.SESSION_HANDLE_INVALID,
        Rv.USER_NOT_LOGGED_IN,
        Rv.OPERATION_ACTIVE,
        Rv.OPERATION_NOT_INITIALIZED,
    }
)
"""The session is of no use any more; another one may be."""

OBJECT_GONE: Final = frozenset({Rv.KEY_HANDLE_INVALID, Rv.OBJECT_HANDLE_INVALID})
"""What the handle named was destroyed, or its session's user has logged out."""

DEVICE_FAULT: Final = frozenset(
    {
        Rv.HOST_MEMORY,
        Rv.SLOT_ID_INVALID,
        Rv.GENERAL_ERROR,
        Rv.FUNCTION_FAILED,
        Rv.DEVICE_ERROR,
        Rv.DEVICE_MEMORY,
        Rv.DEVICE_REMOVED,
        Rv.TOKEN_NOT_PRESENT,
        Rv.TOKEN_NOT_RECOGNIZED,
        Rv.CRYPTOKI_NOT_INITIALIZED,
    }
)
"""The token is not what it was, or not there: the library has to be opened anew, or it would never see it come back."""

VENDOR_DEFINED: Final = 0x8000_0000
"""From here on a code means what its vendor says, such as that the network is down."""

PIN_REFUSED: Final = frozenset(
    {
        Rv.PIN_INCORRECT,
        Rv.PIN_INVALID,
        Rv.PIN_LEN_RANGE,
        Rv.PIN_EXPIRED,
        Rv.PIN_LOCKED,
        Rv.USER_PIN_NOT_INITIALIZED,
    }
)
"""Asking again with the same PIN would not help, and might lock the token."""

NOT_AUTHENTIC: Final = frozenset({Rv.ENCRYPTED_DATA_INVALID, Rv.ENCRYPTED_DATA_LEN_RANGE, Rv.AEAD_DECRYPT_FAILED})
"""The device is well, and what it was given to open is not what it sealed."""

AMBIGUOUS: Final = frozenset({Rv.GENERAL_ERROR, Rv.FUNCTION_FAILED, Rv.DATA_INVALID, Rv.DEVICE_ERROR})
"""From opening: a wrong tag, as SoftHSM says it, or a fault of the device. Only the device itself can tell which."""
