"""The one owner that a PKCS#11 library has in a process: its threads, their sessions, the logins, and what mends them.

What the standard and the devices demand, and where it is kept here:

* The library is initialized once a process, with locking (`cryptoki.py`): `Library.shared`.
* A session is one thread's: each of a few threads has one for each token, and no other thread knows its number.
* A login is the whole process's. A PIN that was refused is not shown again until the file has another one: a device
  counts, and locks a token for good.
* A token that came back, or was made by another process, is seen by a library that is opened anew. That voids every
  session and every handle, so it happens behind a gate, and seldom.
* A fork's child inherits a library that the parent's threads may have left locked. So a fork waits until nobody is in
  it, and what the child inherits refuses to work: it opens its own.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

import structlog

from control_plane.errors import UnavailableError
from control_plane.keys.pkcs11.codes import (
    DEVICE_FAULT,
    OBJECT_GONE,
    PIN_REFUSED,
    SESSION_LOST,
    USER,
    USER_FUNCTIONS,
    VENDOR_DEFINED,
    Rv,
)
from control_plane.keys.pkcs11.cryptoki import Cryptoki, CryptokiError, Session, Slot, TokenInfo
from control_plane.keys.pkcs11.gate import Gate
from control_plane.threads import wait_to_end

T = TypeVar("T")
ReadPin = Callable[[], bytes]
"""Reads the PIN as it is now; raises OSError or ExposedKeyError."""

_THREADS: Final = 4
# Opening the library anew costs everybody's sessions, so a token that stays away makes it ever rarer.
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0

_log = structlog.get_logger(__name__)


class Library:
    """A library that is in use. Those methods that are not async block, and are for its own threads."""

    def __init__(self, cryptoki: Cryptoki, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a library that nobody else uses, and that is yet to be opened: `shared` is the way in."""
        self.cryptoki = cryptoki
        self._clock = clock
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="vault")
        self._gate = Gate()
        # Changed behind the gate, alone.
        self._epoch = 0
        self._not_before = 0.0
        self._pause_s = _FIRST_PAUSE_S
        # Of the present epoch, by label; a race puts the same values there twice.
        self._slots: dict[str, Slot] = {}
        self._seen: dict[str, TokenInfo] = {}
        # Both under the lock. Whoever logs in for a token does so for all threads.
        self._login = threading.Lock()
        self._refused: dict[str, bytes] = {}
        self._logins: dict[str, int] = {}
        # Each thread's own sessions, by label, and the epoch that they are of.
        self._mine = threading.local()

    @classmethod
    def shared(cls, module: Path, environment: Mapping[str, str]) -> "Library":
        """Return the process's owner of a library; load it, with what it reads from the environment, the first time.

        Raises:
            OSError: it cannot be loaded.
            ValueError: this process uses it already, in another environment.
        """
        with _OWNERS_LOCK:
            known = _OWNERS.get(module)
            if known is None:
                _hook_forks()
                os.environ.update(environment)
                known = _OWNERS[module] = (cls(Cryptoki(module)), dict(environment))
                with suppress(CryptokiError):
                    # Where it cannot be opened now, the calls say so, and try again.
                    known[0].open()
            if known[1] != dict(environment):
                raise ValueError(f"{module} is in use by this process, for something else")
            return known[0]

    @property
    def epoch(self) -> int:
        """How often it was opened anew: what was learnt in an older one is void."""
        return self._epoch

    def open(self) -> None:
        """Initialize it. What a parent process has left open in us is closed first, and so is what has no mutexes."""
        try:
            self.cryptoki.initialize()
        except CryptokiError as error:
            if error.code != Rv.CRYPTOKI_ALREADY_INITIALIZED:
                raise
            self.cryptoki.finalize()
            self.cryptoki.initialize()

    def close(self) -> None:
        """End it, once nobody is in it; whoever comes later opens another."""
        with _OWNERS_LOCK:
            for module in [module for module, (library, _) in _OWNERS.items() if library is self]:
                del _OWNERS[module]
        self._threads.shutdown()
        with self._gate.alone(), suppress(CryptokiError):
            self.cryptoki.finalize()

    def run(self, work: Callable[[], T]) -> T:
        """Run `work` in one of the threads, and wait for it in our own."""
        return self._submit(work).result()

    async def run_to_end(self, work: Callable[[], T]) -> T:
        """Run `work` in one of the threads; whoever is cancelled is let go once it is over."""
        return await wait_to_end(asyncio.wrap_future(self._submit(work)))

    async def run_within(self, time_limit: timedelta, work: Callable[[], T]) -> T:
        """Run `work`, which leaves no trace, in one of the threads, and wait no longer than this for it.

        Raises:
            UnavailableError: it takes longer, as with a device that hangs.
        """
        try:
            async with asyncio.timeout(time_limit.total_seconds()):
                return await asyncio.wrap_future(self._submit(work))
        except TimeoutError:
            _log.error("vault_hangs", seconds=time_limit.total_seconds())
            raise UnavailableError("the key vault does not answer", reason="VAULT_UNAVAILABLE") from None

    @contextmanager
    def session(self, label: str, pin: ReadPin) -> Iterator[Session]:
        """Give this thread's own session with the token, logged in.

        Raises:
            CryptokiError: there is none; `mend` says whether to try again.
            UnavailableError: the PIN is not the token's.
        """
        with self._gate.among_others():
            yield self._session(label, pin)

    @contextmanager
    def tokens(self) -> Iterator[list[TokenInfo]]:
        """Give the tokens that are there; they stay what they are until the caller has gone on."""
        with self._gate.among_others():
            yield self._tokens()

    def look(self) -> None:
        """See which tokens are there; none where the library does not work."""
        with suppress(CryptokiError), self.tokens():
            pass

    def seen(self, label: str) -> TokenInfo | None:
        """Return what was last seen of a token, from any thread at once."""
        return self._seen.get(label)

    def logins(self, label: str) -> int:
        """Say how often this process has logged in to a token: whether somebody was logged out in between."""
        return self._logins.get(label, 0)

    def check_logged_in(self, session: Session) -> None:
        """Raise CryptokiError where the session's token hides its private objects, since nobody is logged in."""
        if self.cryptoki.session_state(session) not in USER_FUNCTIONS:
            raise CryptokiError("GetSessionInfo", Rv.USER_NOT_LOGGED_IN)

    def mend(self, error: CryptokiError, label: str, *, epoch: int) -> bool:
        """Do what may help against an error that was met in this epoch, and say whether to try once more."""
        if error.code in SESSION_LOST:
            self._drop(label)
            return True
        if error.code in OBJECT_GONE:
            return True
        if error.code in DEVICE_FAULT or error.code >= VENDOR_DEFINED:
            _log.warning("vault_device_failed", token=label, error=str(error))
            return self.reopen(epoch)
        return False

    def reopen(self, seen: int) -> bool:
        """Open it anew, unless somebody has since epoch `seen`; say whether it is another one now.

        A token that stays away does not make it happen each time: there are pauses, up to half a minute.
        """
        with self._gate.alone():
            if self._epoch != seen:
                return True
            now = self._clock()
            if now < self._not_before:
                return False
            lately = now < self._not_before + _LONGEST_PAUSE_S
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if lately else _FIRST_PAUSE_S
            self._not_before = now + self._pause_s
            try:
                self._renew()
            except CryptokiError as error:
                _log.error("vault_library_failed", error=str(error))
                return False
            _log.info("vault_library_opened_anew")
            return True

    def renew(self) -> None:
        """Open it anew at once, for whoever has to see all that there is; raise CryptokiError where that fails."""
        with self._gate.alone():
            self._renew()

    def shut(self) -> None:
        """Let nobody in before a fork."""
        self._gate.shut()

    def unlock(self) -> None:
        """Let them in again after it."""
        self._gate.open()

    def _renew(self) -> None:
        self._epoch += 1
        self._slots = {}
        with suppress(CryptokiError):
            self.cryptoki.finalize()
        self.open()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if os.getpid() != self._pid:
            raise UnavailableError(
                "this process was forked: it has to open a key vault of its own", reason="VAULT_UNAVAILABLE"
            )
        return self._threads.submit(work)

    def _session(self, label: str, pin: ReadPin) -> Session:
        sessions = self._sessions()
        if label not in sessions:
            session = self.cryptoki.open_session(self._slot(label))
            try:
                self._log_in(label, session, pin)
            except BaseException:
                with suppress(CryptokiError):
                    self.cryptoki.close_session(session)
                raise
            sessions[label] = session
        return sessions[label]

    def _sessions(self) -> dict[str, Session]:
        if getattr(self._mine, "epoch", None) != self._epoch:
            self._mine.epoch, self._mine.sessions = self._epoch, {}
        found: dict[str, Session] = self._mine.sessions
        return found

    def _drop(self, label: str) -> None:
        with self._gate.among_others(), suppress(CryptokiError):
            session = self._sessions().pop(label, None)
            if session is not None:
                self.cryptoki.close_session(session)

    def _slot(self, label: str) -> Slot:
        if label not in self._slots:
            slots = [token.slot for token in self._tokens() if token.label == label and token.is_initialized]
            if not slots:
                raise CryptokiError("GetSlotList", Rv.TOKEN_NOT_PRESENT)
            if len(slots) > 1:
                # Whoever can bring a second token of that name must not be given our PIN, nor our keys' work.
                raise CryptokiError("GetSlotList", Rv.TOKEN_NOT_RECOGNIZED)
            self._slots[label] = slots[0]
        return self._slots[label]

    def _tokens(self) -> list[TokenInfo]:
        found = self.cryptoki.tokens()
        self._seen |= {token.label: token for token in found if token.is_initialized}
        return found

    def _log_in(self, label: str, session: Session, pin: ReadPin) -> None:
        with self._login:
            if self.cryptoki.session_state(session) in USER_FUNCTIONS:
                return
            try:
                shown = pin()
            except Exception as error:
                _log.error("vault_pin_unreadable", token=label, error=type(error).__name__)
                raise UnavailableError("the key vault's PIN cannot be read", reason="VAULT_PIN_REFUSED") from error
            if self._refused.get(label) == shown:
                raise UnavailableError("the key vault refuses the PIN that it was shown", reason="VAULT_PIN_REFUSED")
            try:
                self.cryptoki.login(session, USER, shown)
            except CryptokiError as error:
                if error.code in PIN_REFUSED:
                    self._refused[label] = shown
                    _log.error("vault_pin_refused", token=label, error=str(error))
                    raise UnavailableError(
                        "the key vault refuses the PIN that it was shown", reason="VAULT_PIN_REFUSED"
                    ) from error
                if error.code != Rv.USER_ALREADY_LOGGED_IN:
                    raise
            self._refused.pop(label, None)
            self._logins[label] = self._logins.get(label, 0) + 1


# A library belongs to a process, whoever in it asks: the standard knows one application, and no second owner.
_OWNERS: Final[dict[Path, tuple[Library, dict[str, str]]]] = {}
_OWNERS_LOCK: Final = threading.Lock()
_hooked = threading.Event()


def _hook_forks() -> None:
    if _hooked.is_set():
        return
    _hooked.set()

    def before() -> None:
        _OWNERS_LOCK.acquire()
        for library, _ in _OWNERS.values():
            library.shut()

    def after() -> None:
        for library, _ in _OWNERS.values():
            library.unlock()
        _OWNERS_LOCK.release()

    def in_child() -> None:
        # Their gates stay shut: what is behind them is the parent's.
        _OWNERS.clear()
        _OWNERS_LOCK.release()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=in_child)
