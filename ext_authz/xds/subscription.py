"""One type of resource on one Envoy's stream: what it asked for, what it has, what it is still to be told. Pure.

Nothing waits here but names. Whatever happened to a resource in the meantime, what is sent is what there is at that
moment, if it is not what the Envoy has: a slow Envoy costs no memory, and is not told what is overtaken.

One response at a time is unanswered. If it is refused, nobody knows which of its resources are to blame, nor which of
the others were taken over. So it is sent once more in two halves, and they in theirs, until those to blame stand alone.
Such a resource is not sent again before it differs, and then alone: the Envoy keeps what it accepted last, and the
other resources do not wait. An Envoy that has none yet is given what stands in for it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Final

import structlog

from ext_authz.xds.snapshot import CLUSTER, LISTENER, SCOPE, SECRET, Resource, Snapshot, Unrenderable, Version

EVERYTHING: Final = "*"
# A first request for these that names nothing asks for everything.
_WHOLE: Final = frozenset({CLUSTER, LISTENER, SCOPE})
# What others refer to goes after them.
REMOVED_LAST: Final = (SECRET, CLUSTER)
_MOST_RESOURCES: Final = 1000
_MOST_BYTES: Final = 1_000_000
# What a resource takes beside its name and its body: its version, and the type once more.
_MOST_OF_A_FRAME: Final = 128
_MOST_OF_AN_ERROR: Final = 1000
# What an Envoy has that has no resource of that name.
_ABSENT: Final = Version("")

_log: Final = structlog.get_logger("xds")


class Progress(StrEnum):
    """How far an Envoy is with one type; named as in `ResourceTypeStatus.State`."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NACK = "NACK"


@dataclass(slots=True)
class Batch:
    """What one response says."""

    # Since which generation the first of it is due.
    since: int
    resources: dict[str, Resource] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    # Names that are told something else than what there should be.
    stand_ins: set[str] = field(default_factory=set)
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.resources or self.removed)

    def put(self, name: str, resource: Resource | None) -> None:
        """Say that this is the resource, or that there is none."""
        self.size += len(name)
        if resource is None:
            self.removed.append(name)
        else:
            self.resources[name] = resource
            self.size += len(resource.body) + _MOST_OF_A_FRAME

    @property
    def is_full(self) -> bool:
        """Tell whether more would be too much for one response."""
        return self.size >= _MOST_BYTES


@dataclass(slots=True)
class _Unanswered:
    nonce: str
    since: int
    # By name what the Envoy has if it accepts; without names that were asked for or given up since.
    versions: dict[str, Version]
    stand_ins: set[str]
    is_single: bool
    removes: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """Names that are to be sent together, and with nothing else."""

    since: int
    names: list[str]
    # Whether it may say that something is gone.
    removes: bool


@dataclass(frozen=True, slots=True)
class _Fault:
    # What was refused; None when it could not even be made.
    version: Version | None
    error: str


class Subscription:
    """What one Envoy asked for, of one type, and how far it is.

    `generation` counts the hub's changes, so that it can be told whether the Envoy has answered for one of them.
    """

    def __init__(self, url: str, *, node: str = "") -> None:
        """Begin with nothing asked for."""
        self.url = url
        self._node = node
        self._is_new = True
        self._everything = False
        self._names: set[str] = set()
        # What it has accepted, or said that it has.
        self._held: dict[str, Version] = {}
        # Names that it is to be told of whatever it has: it asked, or nobody knows what it has.
        self._untold: set[str] = set()
        # Names to look at, each since which generation. In the order of these.
        self._due: dict[str, int] = {}
        self._groups: deque[_Group] = deque()
        # Gone, but not to be told before everything that may refer to it is up to date.
        self._leaving: dict[str, int] = {}
        self._unanswered: _Unanswered | None = None
        self._faults: dict[str, _Fault] = {}
        # Whether it waits for a response even if there is nothing to say.
        self._greet = False
        self._revision = 0

    def ask(
        self,
        subscribed: Iterable[str],
        unsubscribed: Iterable[str] = (),
        *,
        held: Mapping[str, str] | None = None,
        snapshot: Snapshot,
        generation: int,
    ) -> None:
        """Take note of what it asks for and gives up.

        `held` is what a reconnected Envoy says that it has: it is told only what differs from that. Whatever it asks
        for by name later, it is told even if it has it: it may have dropped it a moment before.
        """
        is_first, self._is_new = self._is_new, False
        named, given_up = list(subscribed), list(unsubscribed)
        if is_first:
            self._held = {name: Version(version) for name, version in (held or {}).items()}
            if not named and not given_up and self.url in _WHOLE:
                named = [EVERYTHING]
        for name in given_up:
            self._give_up(name, generation)
        for name in named:
            if name == EVERYTHING:
                self._want_everything(snapshot, generation)
            else:
                self._want(name, generation, may_be_held=is_first)
        if is_first and not self._everything:
            self._held = {name: version for name, version in self._held.items() if name in self._names}

    def touch(self, names: Iterable[str], generation: int) -> None:
        """Look at those of the names that it asked for: they may have changed."""
        self._look_at((name for name in names if self._wants(name)), generation)

    def settle(self, revision: int) -> None:
        """Remember the revision that it was at, before another one comes."""
        if not self.is_pending:
            self._revision = revision

    @property
    def is_pending(self) -> bool:
        """Tell whether there is something to say, or something unanswered."""
        return bool(self.is_unsent or self._unanswered or self._leaving)

    @property
    def is_unsent(self) -> bool:
        """Tell whether there are names to look at, without those that are held back."""
        return bool(self._due or self._groups)

    def is_ready(self, snapshot: Snapshot) -> bool:
        """Tell whether `next` has something to do."""
        return self._unanswered is None and (self.is_unsent or self._greet) and snapshot.knows(self.url)

    def release(self) -> None:
        """Let go what was held back."""
        if self._leaving:
            self._groups.append(_Group(min(self._leaving.values()), list(self._leaving), removes=True))
            self._leaving = {}

    def next(self, snapshot: Snapshot, nonce: str) -> Batch | None:
        """Return what is to be said now, unanswered from then on; None if there is nothing in the next names.

        Looks at no more than a thousand names, so that a caller can let others have their turn.
        """
        group = self._next_group()
        batch = Batch(group.since)
        for position, name in enumerate(group.names):
            if batch.is_full:
                self._groups.appendleft(_Group(group.since, group.names[position:], group.removes))
                break
            self._consider(name, snapshot, batch=batch, removes=group.removes)
        if not batch and not (self._greet and not self.is_unsent):
            return None
        self._greet = False
        versions = {name: resource.version for name, resource in batch.resources.items()}
        versions |= dict.fromkeys(batch.removed, _ABSENT)
        self._unanswered = _Unanswered(
            nonce, group.since, versions, batch.stand_ins, is_single=len(versions) == 1, removes=group.removes
        )
        return batch

    def answer(self, nonce: str, error: str | None) -> None:
        """Take note of the Envoy's answer. An answer to anything but the last response says nothing."""
        sent = self._unanswered
        if sent is None or sent.nonce != nonce:
            return
        self._unanswered = None
        if error is None:
            self._accepted(sent)
        elif sent.is_single:
            for name, version in sent.versions.items():
                self._refused(name, version, error=error, sent=sent)
        else:
            names = list(sent.versions)
            self._untold.update(names)
            half = (len(names) + 1) // 2
            for part in (names[half:], names[:half]):
                if part:
                    self._groups.appendleft(_Group(sent.since, part, sent.removes))

    def oldest(self) -> int | None:
        """Return the first generation that the Envoy has not answered for, None if it has for all."""
        due = next(iter(self._due.values()), None)
        unanswered = self._unanswered.since if self._unanswered else None
        since = [*(group.since for group in self._groups), due, unanswered]
        return min((generation for generation in since if generation is not None), default=None)

    @property
    def resources(self) -> int:
        """Return how many resources it has."""
        return len(self._held)

    def progress(self, snapshot: Snapshot) -> Progress:
        """Return how far it is."""
        if self._faults:
            return Progress.NACK
        return Progress.STALE if self.is_pending or not snapshot.knows(self.url) else Progress.SYNCED

    def revision(self, snapshot: Snapshot) -> int:
        """Return the revision of what it has. Where a revision changed nothing for it, it has that one too."""
        self.settle(snapshot.revision)
        return self._revision

    def error(self) -> str:
        """Return why it refused what it refused; empty if it refuses nothing."""
        if not self._faults:
            return ""
        name, fault = next(iter(self._faults.items()))
        others = f" (and {len(self._faults) - 1} more)" if len(self._faults) > 1 else ""
        return f"{name}: {fault.error}{others}"

    def _want_everything(self, snapshot: Snapshot, generation: int) -> None:
        if not self._everything:
            self._everything = True
            self._greet = not self._held
            self._look_at((*snapshot.names(self.url), *self._held), generation)

    def _want(self, name: str, generation: int, *, may_be_held: bool) -> None:
        self._names.add(name)
        self._faults.pop(name, None)
        if not (may_be_held and name in self._held):
            self._forget(name)
            self._untold.add(name)
        self._look_at((name,), generation)

    def _give_up(self, name: str, generation: int) -> None:
        if name == EVERYTHING:
            self._everything = False
            for other in [other for other in {**self._held, **self._due} if other not in self._names]:
                self._drop(other)
            return
        self._names.discard(name)
        self._drop(name)
        if self._everything:
            # It does not know whether the name belongs to everything.
            self._untold.add(name)
            self._look_at((name,), generation)

    def _drop(self, name: str) -> None:
        self._forget(name)
        self._untold.discard(name)
        self._faults.pop(name, None)
        self._due.pop(name, None)

    def _forget(self, name: str) -> None:
        """Forget what it has: the answer to what is on the way says nothing about what it will have."""
        self._held.pop(name, None)
        if self._unanswered:
            self._unanswered.versions.pop(name, None)

    def _wants(self, name: str) -> bool:
        return self._everything or name in self._names

    def _look_at(self, names: Iterable[str], generation: int) -> None:
        for name in names:
            self._due.setdefault(name, generation)

    def _next_group(self) -> _Group:
        if not self._groups and self._due:
            self._groups.extend(self._due_groups())
        # Without any, it is greeted: with nothing, and for nobody's change.
        return self._groups.popleft() if self._groups else _Group(0, [], removes=True)

    def _due_groups(self) -> Iterator[_Group]:
        """Take the first names that are due. Those that were refused before are likely to be again: they go alone."""
        removes = self.url not in REMOVED_LAST
        taken = list(islice(self._due.items(), _MOST_RESOURCES))
        for name, _ in taken:
            del self._due[name]
        if not self._due:
            # A dictionary does not shrink, and the first one held everything.
            self._due = {}
        sound = [name for name, _ in taken if name not in self._faults]
        if sound:
            yield _Group(taken[0][1], sound, removes)
        yield from (_Group(since, [name], removes) for name, since in taken if name in self._faults)

    def _consider(self, name: str, snapshot: Snapshot, *, batch: Batch, removes: bool) -> None:
        """Put the resource into the batch if the Envoy is to be told of it."""
        if not self._wants(name):
            return
        found = snapshot.find(self.url, name)
        if found is None and name in self._names:
            found = snapshot.stand_in(self.url, name)
        fault = self._faults.get(name)
        if isinstance(found, Unrenderable):
            fault = self._quarantine(name, None, error=found.error)
            version = None
        else:
            version = _ABSENT if found is None else found.version
        if name not in self._untold and self._held.get(name, _ABSENT) == version:
            self._faults.pop(name, None)
        elif fault and fault.version == version:
            # Whoever has one keeps it. Whoever has none and waits for it is not left waiting.
            if name in self._untold and name not in self._held:
                batch.stand_ins.add(name)
                batch.put(name, snapshot.stand_in(self.url, name))
        elif found is not None or removes or name in self._untold:
            batch.put(name, None if isinstance(found, Unrenderable) else found)
        else:
            self._leaving[name] = batch.since

    def _accepted(self, sent: _Unanswered) -> None:
        for name, version in sent.versions.items():
            self._untold.discard(name)
            if name not in sent.stand_ins:
                self._faults.pop(name, None)
            if version == _ABSENT:
                self._held.pop(name, None)
            else:
                self._held[name] = version

    def _refused(self, name: str, version: Version, *, error: str, sent: _Unanswered) -> None:
        if name in sent.stand_ins:
            self._untold.discard(name)
            return
        self._quarantine(name, version, error=error)
        if name not in self._held:
            self._untold.add(name)
            self._groups.appendleft(_Group(sent.since, [name], sent.removes))

    def _quarantine(self, name: str, version: Version | None, *, error: str) -> _Fault:
        fault = _Fault(version, error[:_MOST_OF_AN_ERROR])
        if self._faults.get(name) != fault:
            _log.warning("resource_quarantined", node=self._node, type=self.url, name=name, error=fault.error)
        self._faults[name] = fault
        return fault
