"""What a reader does with what is wrong in a data set: refuses it, or leaves it out and counts it."""
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError

log = logging.getLogger('unet_jax')


class LeftOut(NamedTuple):
    """The policies of a reader and what it has left out so far, by kinds such as 'missing' and 'unreadable'."""
    policies: dict[str, str]  # 'error' and 'raise' refuse, all others leave out
    audit: bool  # an audit refuses nothing
    items: dict[str, list[str]]  # what, and why

    def refuses(self, kind: str) -> bool:
        return not self.audit and self.policies[kind] in ('error', 'raise')

    def attempt(self, kind: str, read: Callable, *arguments: Any) -> Any:
        """read(*arguments); None where that raises InputError and the policy leaves out what is of this kind."""
        try:
            return read(*arguments)
        except InputError as error:
            if self.refuses(kind):
                raise
            self.items[kind].append(str(error).splitlines()[0])

    def note(self, frame: pd.DataFrame, where: str) -> None:
        """Into the log and `frame.attrs['reader']`."""
        for kind, items in self.items.items():
            frames.note_left_out(frame, kind=kind, policy=self.policies[kind], items=items)
            if items:
                log.warning('%s: %s = %r for %d, first %s', where, kind, self.policies[kind], len(items),
                            '; '.join(items[:3]))


def left_out(policies: dict[str, str], *, audit: bool = False) -> LeftOut:
    """Nothing so far."""
    return LeftOut(policies, audit, {kind: [] for kind in policies})


def of_files(on_error: str, *, audit: bool = False, kinds: Iterable[str] = ('missing', 'unreadable')) -> LeftOut:
    """`left_out` where config.data.on_error decides. Raises InputError for a value that is none."""
    if on_error not in ('raise', 'skip'):
        raise InputError(f"config.data.on_error is {on_error!r}; choose 'raise' or 'skip'")
    return left_out(dict.fromkeys(kinds, on_error), audit=audit)
