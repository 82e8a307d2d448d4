"""A gate through which many threads go in and out, until one has to be alone behind it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Calls into a library are among others; ending the library, and a fork, are alone."""

    def __init__(self) -> None:
        """Begin with nobody behind it."""
        self._changed = threading.Condition()
        # Both are touched under the condition's lock only.
        self._inside = 0
        self._is_shut = False

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Be inside, and nobody alone meanwhile. Not to be entered twice by one thread."""
        with self._changed:
            while self._is_shut:
                self._changed.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside with nobody else: wait until all have left, and let nobody in."""
        self.shut()
        try:
            yield
        finally:
            self.open()

    def shut(self) -> None:
        """Let nobody in, and return once all have left."""
        with self._changed:
            while self._is_shut:
                self._changed.wait()
            self._is_shut = True
            while self._inside:
                self._changed.wait()

    def open(self) -> None:
        """Let them in again."""
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()
