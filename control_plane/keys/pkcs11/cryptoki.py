"""The functions of a PKCS#11 library that we call, with Python's types. Nothing is kept and nothing is tried twice.

The library is told to use the operating system's mutexes from its first moment on (`OS_LOCKING_OK`): without, SoftHSM
uses none, and threads at work in it crash or, worse, read each other's bytes. All functions block, and let other Python
threads run meanwhile.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ctypes import POINTER, byref, c_char, c_char_p, c_ubyte, c_ulong, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NewType

from control_plane.keys.pkcs11.codes import (
    AES_GCM,
    AES_KEY_GEN,
    OS_LOCKING_OK,
    RW_SESSION,
    SERIAL_SESSION,
    Attribute,
    Rv,
    TokenFlag,
)

Slot = NewType("Slot", int)
Session = NewType("Session", int)
Handle = NewType("Handle", int)
"""Names an object to all sessions of this process, until it is destroyed or the library is closed."""

Template = Mapping[Attribute, bool | int | bytes]

TAG_BYTES: Final = 16
_LABEL_BYTES: Final = 32
_LONGEST_VALUE: Final = 256
_FOUND_AT_ONCE: Final = 256
# In the order of CK_FUNCTION_LIST, up to the last one that we call.
_FUNCTIONS: Final = (
    *("Initialize", "Finalize", "GetInfo", "GetFunctionList"),
    *("GetSlotList", "GetSlotInfo", "GetTokenInfo", "GetMechanismList", "GetMechanismInfo"),
    *("InitToken", "InitPIN", "SetPIN"),
    *("OpenSession", "CloseSession", "CloseAllSessions", "GetSessionInfo", "GetOperationState", "SetOperationState"),
    *("Login", "Logout"),
    *("CreateObject", "CopyObject", "DestroyObject", "GetObjectSize", "GetAttributeValue", "SetAttributeValue"),
    *("FindObjectsInit", "FindObjects", "FindObjectsFinal"),
    *("EncryptInit", "Encrypt", "EncryptUpdate", "EncryptFinal"),
    *("DecryptInit", "Decrypt", "DecryptUpdate", "DecryptFinal"),
    *("DigestInit", "Digest", "DigestUpdate", "DigestKey", "DigestFinal"),
    *("SignInit", "Sign", "SignUpdate", "SignFinal", "SignRecoverInit", "SignRecover"),
    *("VerifyInit", "Verify", "VerifyUpdate", "VerifyFinal", "VerifyRecoverInit", "VerifyRecover"),
    *("DigestEncryptUpdate", "DecryptDigestUpdate", "SignEncryptUpdate", "DecryptVerifyUpdate"),
    "GenerateKey",
)


class CryptokiError(Exception):
    """A function of the library has failed. Says which, and how; never with what it was called."""

    def __init__(self, function: str, code: int) -> None:
        """Keep the code; the library may return one that no standard names."""
        name = Rv(code).name if code in set(Rv) else "CODE"
        super().__init__(f"C_{function}: {name} (0x{code:x})")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What a token says of itself."""

    slot: Slot
    label: str
    model: str
    firmware: str
    is_initialized: bool
    has_user_pin: bool


class _Version(ctypes.Structure):
    _fields_: ClassVar = [("major", c_ubyte), ("minor", c_ubyte)]


class _FunctionList(ctypes.Structure):
    _fields_: ClassVar = [("version", _Version), ("functions", c_void_p * len(_FUNCTIONS))]


class _InitializeArgs(ctypes.Structure):
    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("create_mutex", "destroy_mutex", "lock_mutex", "unlock_mutex")),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    ]


class _TokenInfo(ctypes.Structure):
    _fields_: ClassVar = [
        ("label", c_char * _LABEL_BYTES),
        ("manufacturer", c_char * 32),
        ("model", c_char * 16),
        ("serial", c_char * 16),
        ("flags", c_ulong),
        # How many sessions there are and may be, how long PINs are, and how much memory is left.
        ("figures", c_ulong * 10),
        ("hardware", _Version),
        ("firmware", _Version),
        ("utc_time", c_char * 16),
    ]


class _SessionInfo(ctypes.Structure):
    _fields_: ClassVar = [("slot", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("device_error", c_ulong)]


class _Attribute(ctypes.Structure):
    _fields_: ClassVar = [("type", c_ulong), ("value", c_void_p), ("length", c_ulong)]


class _Mechanism(ctypes.Structure):
    _fields_: ClassVar = [("type", c_ulong), ("parameter", c_void_p), ("length", c_ulong)]


class _GcmParameters(ctypes.Structure):
    _fields_: ClassVar = [
        ("nonce", c_char_p),
        ("nonce_bytes", c_ulong),
        ("nonce_bits", c_ulong),
        ("aad", c_char_p),
        ("aad_bytes", c_ulong),
        ("tag_bits", c_ulong),
    ]


class Cryptoki:
    """One PKCS#11 library. Every method raises CryptokiError where the library returns an error."""

    def __init__(self, module: Path) -> None:
        """Load the library; raise OSError where it cannot be."""
        self._library = ctypes.CDLL(str(module))
        functions = POINTER(_FunctionList)()
        try:
            code = int(self._library.C_GetFunctionList(byref(functions)))
        except AttributeError:
            raise OSError(f"{module} is no library of PKCS#11") from None
        if code != Rv.OK:
            raise CryptokiError("GetFunctionList", code)
        prototype = ctypes.CFUNCTYPE(c_ulong)
        self._functions: dict[str, Callable[..., int]] = {
            name: prototype(address) for name, address in zip(_FUNCTIONS, functions.contents.functions, strict=True)
        }

    def initialize(self) -> None:
        """Begin to use the library, from many threads at once."""
        self._call("Initialize", byref(_InitializeArgs(flags=OS_LOCKING_OK)))

    def finalize(self) -> None:
        """End it: all sessions and handles are void. Nobody else may be in the library."""
        self._call("Finalize", None)

    def tokens(self) -> list[TokenInfo]:
        """List the tokens that answer; those that came later may be seen only after `finalize` and `initialize`."""
        count = c_ulong()
        self._call("GetSlotList", c_ubyte(1), None, byref(count))
        slots = (c_ulong * count.value)()
        self._call("GetSlotList", c_ubyte(1), slots, byref(count))
        found: list[TokenInfo] = []
        for slot in slots[: count.value]:
            # One that is broken hides none of the others.
            with suppress(CryptokiError):
                found.append(self._token(Slot(slot)))
        return found

    def init_token(self, slot: Slot, so_pin: bytes, label: str) -> None:
        """Make an empty token of this label. Whatever was in the slot is gone."""
        padded = label.encode().ljust(_LABEL_BYTES)
        if len(padded) != _LABEL_BYTES:
            raise ValueError("a token's label has at most 32 bytes")
        self._call("InitToken", c_ulong(slot), c_char_p(so_pin), c_ulong(len(so_pin)), c_char_p(padded))

    def init_pin(self, session: Session, pin: bytes) -> None:
        """Set the user's PIN, as the security officer."""
        self._call("InitPIN", c_ulong(session), c_char_p(pin), c_ulong(len(pin)))

    def open_session(self, slot: Slot) -> Session:
        """Open a session that may make and destroy objects."""
        session = c_ulong()
        self._call("OpenSession", c_ulong(slot), c_ulong(RW_SESSION | SERIAL_SESSION), None, None, byref(session))
        return Session(session.value)

    def close_session(self, session: Session) -> None:
        """Close it; with a token's last session its user is logged out."""
        self._call("CloseSession", c_ulong(session))

    def session_state(self, session: Session) -> int:
        """Say who is logged in: see `codes.USER_FUNCTIONS`."""
        info = _SessionInfo()
        self._call("GetSessionInfo", c_ulong(session), byref(info))
        return int(info.state)

    def login(self, session: Session, user: int, pin: bytes) -> None:
        """Log in to the session's token, for all sessions of this process. A wrong PIN counts towards a lock."""
        self._call("Login", c_ulong(session), c_ulong(user), c_char_p(pin), c_ulong(len(pin)))

    def logout(self, session: Session) -> None:
        """Log out of the session's token, for all sessions of this process."""
        self._call("Logout", c_ulong(session))

    def find(self, session: Session, template: Template) -> list[Handle]:
        """Find the objects that have these attributes. Costs time linear in all that the token holds."""
        attributes, count = _template(template)
        self._call("FindObjectsInit", c_ulong(session), attributes, count)
        found: list[Handle] = []
        try:
            batch, size = (c_ulong * _FOUND_AT_ONCE)(), c_ulong()
            while True:
                self._call("FindObjects", c_ulong(session), batch, c_ulong(_FOUND_AT_ONCE), byref(size))
                if not size.value:
                    return found
                found += [Handle(handle) for handle in batch[: size.value]]
        finally:
            self._call("FindObjectsFinal", c_ulong(session))

    def attributes(self, session: Session, handle: Handle, wanted: Sequence[Attribute]) -> list[bytes]:
        """Read attributes of an object, each of up to 256 bytes."""
        buffers = [(c_ubyte * _LONGEST_VALUE)() for _ in wanted]
        asked = (_Attribute * len(wanted))(
            *(
                _Attribute(name, ctypes.cast(buffer, c_void_p), _LONGEST_VALUE)
                for name, buffer in zip(wanted, buffers, strict=True)
            )
        )
        self._call("GetAttributeValue", c_ulong(session), c_ulong(handle), asked, c_ulong(len(wanted)))
        return [bytes(buffer[: each.length]) for each, buffer in zip(asked, buffers, strict=True)]

    def generate_aes_key(self, session: Session, template: Template) -> Handle:
        """Make a random AES key inside the token."""
        attributes, count = _template(template)
        handle, mechanism = c_ulong(), _Mechanism(AES_KEY_GEN, None, 0)
        self._call("GenerateKey", c_ulong(session), byref(mechanism), attributes, count, byref(handle))
        return Handle(handle.value)

    def destroy(self, session: Session, handle: Handle) -> None:
        """Destroy an object."""
        self._call("DestroyObject", c_ulong(session), c_ulong(handle))

    def encrypt_gcm(self, session: Session, handle: Handle, data: bytes, *, nonce: bytes, aad: bytes) -> bytes:
        """Encrypt and authenticate under a key in the token; the tag comes last."""
        return self._crypt("Encrypt", session, handle, data=data, parameters=_gcm(nonce, aad))

    def decrypt_gcm(self, session: Session, handle: Handle, data: bytes, *, nonce: bytes, aad: bytes) -> bytes:
        """Return what was encrypted. How a library says that it is not authentic is its own affair: see `codes`."""
        return self._crypt("Decrypt", session, handle, data=data, parameters=_gcm(nonce, aad))

    def _crypt(
        self, function: str, session: Session, handle: Handle, *, data: bytes, parameters: _GcmParameters
    ) -> bytes:
        mechanism = _Mechanism(AES_GCM, ctypes.cast(ctypes.pointer(parameters), c_void_p), ctypes.sizeof(parameters))
        self._call(f"{function}Init", c_ulong(session), byref(mechanism), c_ulong(handle))
        room = len(data) + TAG_BYTES
        result, length = (c_ubyte * room)(), c_ulong(room)
        self._call(function, c_ulong(session), c_char_p(data), c_ulong(len(data)), result, byref(length))
        return bytes(result[: length.value])

    def _token(self, slot: Slot) -> TokenInfo:
        info = _TokenInfo()
        self._call("GetTokenInfo", c_ulong(slot), byref(info))
        return TokenInfo(
            slot=slot,
            label=_text(info.label),
            model=_text(info.model),
            firmware=f"{info.firmware.major}.{info.firmware.minor}",
            is_initialized=bool(info.flags & TokenFlag.TOKEN_INITIALIZED),
            has_user_pin=bool(info.flags & TokenFlag.USER_PIN_INITIALIZED),
        )

    def _call(self, function: str, *arguments: object) -> None:
        code = self._functions[function](*arguments)
        if code != Rv.OK:
            raise CryptokiError(function, code)


def _template(template: Template) -> tuple[Any, c_ulong]:
    encoded = [_encoded(value) for value in template.values()]
    buffers = [ctypes.create_string_buffer(value, len(value)) for value in encoded]
    attributes: Any = (_Attribute * len(template))(
        *(
            _Attribute(name, ctypes.addressof(buffer), len(buffer))
            for name, buffer in zip(template, buffers, strict=True)
        )
    )
    # They hold addresses only: what is there has to live as long as they do.
    attributes.buffers = buffers
    return attributes, c_ulong(len(template))


def _encoded(value: bool | int | bytes) -> bytes:  # noqa: FBT001 a value, no switch
    match value:
        case bool():
            return bytes(c_ubyte(value))
        case int():
            return bytes(c_ulong(value))
        case bytes():
            return value


def _gcm(nonce: bytes, aad: bytes) -> _GcmParameters:
    return _GcmParameters(nonce, len(nonce), len(nonce) * 8, aad, len(aad), TAG_BYTES * 8)


def _text(padded: bytes) -> str:
    return padded.decode(errors="replace").rstrip()
