"""cfbus: captions very large image sets with vision-language models, on GPUs that nobody has to own in one place.

``cfbus.open`` reads what it wrote. Everything else is commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from cfbus.store.view import View

__all__ = ["open"]
__version__ = "0.1.0"


def open(path: str | PathLike[str], *, latest: bool = True) -> View:
    """The captions of the store at ``path``, as its manifest lists them now; its other tables hang on that view.

    Nothing is locked or changed: it works beside a running writer, in a folder where one may only read, and
    on a read-only mount. Where the writer runs on another machine (a network file system), SQLite cannot
    promise to show what it committed last; it is the state of a moment before, or a ``DamagedStoreError``,
    and then the files may be read by a glob.

    ``latest`` leaves out rows that a later pass replaced (see ``View``). Raises ``UsageError`` (no store
    there), ``StoreMismatchError`` (a newer format), ``DamagedStoreError`` (what was sealed is not there).
    """
    from cfbus.store.view import open_view

    return open_view(path, latest=latest)
