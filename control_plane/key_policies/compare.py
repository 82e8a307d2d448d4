"""Whether a change of a policy can let anything pass that did not pass before. Pure.

What is not provably tighter counts as looser. The proof goes rule by rule, and holds whatever the time and the use are:

1. each rule that allows lies within one rule of before that allows,
2. each rule of before that forbids lies within one that forbids now, and
3. each rule of before with dual control lies within one that has it now, or forbids.

By 1 what passes now passed before; by 2 and 3 no stricter rule that counted before has gone, and the strictest counts.
Two rules that together cover a third one prove nothing, nor do two windows in different zones: whoever has such a
change to make makes it in two steps, or has it approved.
"""

from collections.abc import Iterator
from typing import Final

from control_plane.key_policies.model import ANY_KEY, EVERY_DAY, Rule, Terms, Window

_ALWAYS: Final = Window()


def loosenings(before: Terms, after: Terms) -> tuple[str, ...]:
    """Say what of a change is not provably tighter; nothing where all of it is."""
    return tuple(_loosenings(before, after))


def _loosenings(before: Terms, after: Terms) -> Iterator[str]:
    if before.locked and not after.locked:
        yield "unlocks the policy"
    if not before.enforced:
        return
    if not after.enforced:
        yield "no longer enforces the policy"
        return
    for number, rule in enumerate(after.rules):
        if not rule.forbids and not any(_is_within(rule, old) for old in before.rules if not old.forbids):
            yield f"rules[{number}] allows what no one rule has allowed"
    for number, old in enumerate(before.rules):
        if old.forbids and not any(new.forbids and _is_about(new, old) for new in after.rules):
            yield f"what rules[{number}] forbids, no one rule forbids any more"
        if old.dual_control and not any(_is_as_strict(new, old) for new in after.rules):
            yield f"what rules[{number}] has under dual control, no one rule has any more"


def _is_as_strict(new: Rule, old: Rule) -> bool:
    """Say whether `new` denies, or has under dual control, all that `old` has under it."""
    return (new.forbids and _is_about(new, old)) or (new.dual_control and _is_within(old, new))


def _is_within(inner: Rule, outer: Rule) -> bool:
    """Say whether every use that `inner` allows is one that `outer` allows."""
    return inner.reason_codes <= outer.reason_codes and _is_about(outer, inner)


def _is_about(outer: Rule, inner: Rule) -> bool:
    """Say whether `outer` is about everything that `inner` is about, reason codes apart."""
    return (
        (ANY_KEY in outer.keys or inner.keys <= outer.keys)
        and inner.operations <= outer.operations
        and all({name, name.partition(":")[0]} & outer.principals for name in inner.principals)
        and all(
            any(_is_part(window, whole) for whole in outer.windows or (_ALWAYS,))
            for window in inner.windows or (_ALWAYS,)
        )
    )


def _is_part(inner: Window, outer: Window) -> bool:
    if outer.minutes == _ALWAYS.minutes and (outer.days or EVERY_DAY) == EVERY_DAY:
        return True  # Always, wherever.
    return (
        inner.zone == outer.zone
        and (inner.days or EVERY_DAY) <= (outer.days or EVERY_DAY)
        and outer.minutes.start <= inner.minutes.start
        and inner.minutes.stop <= outer.minutes.stop
    )
