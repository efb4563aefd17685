# SPDX-License-Identifier: Apache-2.0
"""The edge between a host (a server, a kernel, a worker) and the user's code that it runs.

The group is entered around the user's code only. The host's machinery stays outside, because it
would get `MemcgOOM` itself: then a connection is reset or a protocol is broken for good, and not a
request. What leaves the edge is a `MemcgOOM` with the account, because hosts drop the notes of a
plain MemoryError. The host shows it in `answering`: outside the group, shielded, and the objects
that the traceback's frames hold are let go afterwards.

    try:
        with inside(group):
            answer = view(request)
    except MemcgOOM as oom:
        with answering(oom):
            answer = render(oom)

`Tenants` makes the groups, at most 1,000 below one path.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from weakref import WeakSet

from .. import core
from ..errors import GroupBusy, MemcgOOM, OfflineError
from ..groups import group as make_group
from ..locking import current_task
from ..names import NAME_MAX, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from types import FrameType

    from ..groups import Group, Size

MOST = 1000  # groups below one prefix
_CURE = "; raise memory.max or free memory in "  # `errors.oom_text` has it before the limit's owner


class inside:
    """Run a block in a group, and raise a plain MemoryError that leaves it again as `MemcgOOM`.

    An object is entered once.

    Parameters
    ----------
    group : Group
    again : callable, optional
        It returns another group if `group` was closed before it could be entered, as `Tenants` may
        do: ``inside(tenants(name), partial(tenants, name))``.

    Raises
    ------
    MemcgOOM
        A limit of memcg's refused memory to the block, and the MemoryError left it, alone or in an
        exception group. The text is the account; ``__cause__`` is the error that left.
    OfflineError
        The group is closed.
    """

    __slots__ = ("_again", "_since", "group")

    def __init__(self, group: Group, again: Callable[[], Group] | None = None) -> None:
        self.group = group
        self._again = again

    def anew(self) -> inside:
        """Return an object to enter the same group again."""
        return inside(self.group, self._again)

    def __enter__(self) -> Group:
        self._since = time.time()
        while True:
            try:
                core.enter(self.group)
                return self.group
            except OfflineError:
                if self._again is None:
                    raise
                self.group = self._again()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        core.leave(self.group, error)
        if error is not None:
            oom = find_oom(error, self.group, self._since)
            if oom is not None and oom is not error:
                raise oom from error


def find_oom(error: BaseException, group: Group | None = None, since: float = 0) -> MemcgOOM | None:
    """Return the `MemcgOOM` that a host shows for an error that has left its group, or None.

    It is the error itself, or a new one with the account of a plain MemoryError, or of the first
    MemoryError in an exception group. None means that no limit of memcg's caused the error: the
    program raised a MemoryError of its own, or the system has no memory.

    Parameters
    ----------
    error : BaseException
    group : Group, optional
        The group that the error has left. A MemoryError of a thread that a library runs jobs in
        has no account. It gets that of the last time that a request of `group` or of one below met
        a limit.
    since : float
        That time is not before this one, in seconds since the epoch.
    """
    if isinstance(error, MemcgOOM):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if (oom := find_oom(inner, group, since)) is not None:
                return MemcgOOM(*oom.args)  # `inner` as the cause of its group would be a circle
        return None
    if not isinstance(error, MemoryError):
        return None
    for text in (*error.args, *getattr(error, "__notes__", ())):
        if isinstance(text, str) and _CURE in text:
            return MemcgOOM(text)
    return None if group is None else _last_oom(group, since)


def _last_oom(group: Group, since: float) -> MemcgOOM | None:
    """Return an error with the last account of `group`, if it is not older than `since`."""
    last = None
    for above in core.ancestry(group):
        oom = above.last_oom  # type: ignore[attr-defined]  # the newest of its limit and those below
        is_ours = oom is not None and f"{oom.group}/".startswith(f"{group.path}/")
        if is_ours and oom.time >= since and (last is None or oom.time > last.time):
            last = oom
    return None if last is None else MemcgOOM(str(last))


def is_from_above(oom: MemcgOOM, group: Group) -> bool:
    """Tell whether the limit that was met is of a group above `group`.

    Then `group` is not to blame: the groups below that one share its limit.
    """
    owner = str(oom).rpartition(_CURE)[2]
    return any(owner == repr(above.path or "/") for above in core.ancestry(group)
               if above is not group)  # fmt: skip


class answering:
    """Show or answer an error in this block: no alarm is raised in it, and the error is let go.

    The block is outside the group that met its limit. At its end the frames of the error's
    traceback, and of those that led to it, are cleared. Otherwise the objects that filled the group
    would live as long as the host keeps the error. A frame that still runs keeps what it has.
    """

    __slots__ = ("_error", "_shield")

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._shield = core.Shield()

    def __enter__(self) -> BaseException:
        self._shield.__enter__()
        return self._error

    def __exit__(self, *exc: object) -> None:
        try:
            let_go(self._error)
        finally:
            self._shield.__exit__(*exc)


def let_go(error: BaseException) -> None:
    """Clear the frames of the traceback of an error, of its causes and of its members.

    The frames that called them are cleared too, up to one that still runs. A frame that has
    returned is kept with its locals while another that it called is kept.
    """
    for found in chain(error):
        traceback = found.__traceback__
        while traceback is not None:
            frame: FrameType | None = traceback.tb_frame
            with contextlib.suppress(RuntimeError):  # the frame still runs
                while frame is not None:
                    frame.clear()
                    # Before 3.13, a frame whose variables somebody has asked for keeps a dict of
                    # them. The next look empties it.
                    _ = frame.f_locals
                    frame = frame.f_back
            traceback = traceback.tb_next


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, what was handled when it was raised, and members, each once."""
    seen: dict[int, BaseException] = {}
    found = [error]
    while found:
        error = found.pop()
        if id(error) in seen:
            continue
        seen[id(error)] = error
        yield error
        found += [e for e in (error.__cause__, error.__context__) if e is not None]
        if isinstance(error, BaseExceptionGroup):
            found += error.exceptions


class Tenants:
    """The groups of a host's tenants, below one path: each is made by its first use.

    At most `most` stay. To make room, idle ones are closed, the least recently used first.
    What a closed group still holds is charged to the path's own group. A group below the path that
    the program has made itself, with limits of its own, is used as it is and never closed.

    Parameters
    ----------
    prefix : str
        The path of the group above, such as ``"tenants"``. It is made by the first tenant.
    most : int
        How many groups there may be. While several threads make groups, there may be one more for
        each of them.
    **limits : int, str or None
        The limits of each tenant's group. None means that the group only accounts.

    Notes
    -----
    Context: any thread. There is no lock: each step is one operation on a dict.
    """

    def __init__(self, prefix: str, *, most: int = MOST, **limits: Size) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1 group, not {most}")
        self._prefix = prefix
        self._most = most
        self._limits = {which: size for which, size in limits.items() if size is not None}
        self._groups: OrderedDict[str, Group] = OrderedDict()  # the least recently used is first
        self._making: dict[tuple[Hashable, str], None] = {}  # by thread: two may make the same one
        self._made: WeakSet[Group] = WeakSet()
        self._theirs: dict[str, Group] = {}  # the program made them

    def __len__(self) -> int:
        return len(self._groups)

    def __call__(self, name: str) -> Group:
        """Return the group of the tenant called `name`, and make it if there is none.

        The name is escaped. Another thread may need the group's place before it is entered, so give
        `inside` a way to get another: ``with inside(tenants(name), partial(tenants, name)):``.

        Raises
        ------
        GroupBusy
            `most` groups are in use, so none can be closed.
        MemcgOOM
            A limit above refused the memory for a group.
        """
        group = self._groups.get(name)
        if group is None or not group.online:
            return self._other(name)
        try:  # noqa: SIM105  # each request does this, and suppress() is dearer
            self._groups.move_to_end(name)
        except KeyError:  # another thread has closed it just now
            pass
        return group

    def _other(self, name: str) -> Group:
        """Return a group that the program made, or that of a long name, or a new one."""
        part = escape(name)
        key = name if len(name) <= NAME_MAX else part  # no key is longer than this
        group = self._theirs.get(key)
        if group is not None and group.online:
            return group
        group = self._groups.get(key)
        if group is None or not group.online:
            return self._make(key, part)
        with contextlib.suppress(KeyError):
            self._groups.move_to_end(key)
        return group

    def _make(self, key: str, part: str) -> Group:
        group = make_group(self._prefix).children.get(part)
        # In this order: a thread that makes the group notes it before it ends `_making`.
        is_being_made = any(made == key for _, made in list(self._making))
        if group is not None and not is_being_made and group not in self._made:
            self._theirs[key] = group
            return group
        mine = (current_task(), key)
        self._making[mine] = None
        try:
            group = make_group(f"{self._prefix}/{part}", **self._limits)
            self._made.add(group)
        finally:
            self._making.pop(mine, None)
        self._groups[key] = group
        while len(self._groups) > self._most:
            if not self._close_one(but=group) and len(self._groups) > self._most:
                self._groups.pop(key, None)
                group.close()
                raise GroupBusy(
                    f"group {self._prefix!r}: all {self._most} groups below it are in use, so "
                    f"there is no place for {part!r}; try again later or allow more"
                )
        return group

    def _close_one(self, but: Group | None = None) -> bool:
        """Close the least recently used idle group; tell whether there was one."""
        for key, group in list(self._groups.items()):
            if group is but or group.nr_inside or group.children:
                continue
            try:
                group.close()
            except GroupBusy:  # a thread has entered it just now
                continue
            if self._groups.get(key) is group:  # if it is made anew just now, `_make` finds it
                self._groups.pop(key, None)
            return True
        return False

    def close(self) -> None:
        """Close the idle groups that this object made."""
        while self._close_one():
            pass
