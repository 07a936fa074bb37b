"""What is done before the interpreter joins its threads: the only place where a loop's clean-up is silent.

It comes with the first model, and not with the first call: that one may be a worker's after the main thread's
last line, when nothing can be registered any more, nor imported what registers something.
"""

import concurrent.futures.thread  # noqa: F401  # registers its own; asyncio imports it at need
import threading
from collections.abc import Callable

_hooks: list[Callable[[], None]] = []


def before_threads_are_joined(hook: Callable[[], None]) -> None:
    """Have `hook()` run then; not at all if they are being joined already."""
    _hooks.append(hook)


def _run() -> None:
    for hook in _hooks:
        hook()


# Silent under -X dev, unlike atexit (measured on 3.11); concurrent.futures does the same.
threading._register_atexit(_run)  # type: ignore[attr-defined]  # noqa: SLF001  # the only hook there is
