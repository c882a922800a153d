"""Where time goes: sections inside sections, each with the time that no inner one took."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Watched:
    """A function whose calls are timed: an attribute of an object, class or module."""

    owner: Any
    function: str
    section: str
    afterwards: str | None = None  # what the section around the call is called when it is over


class Stopwatch:
    """Seconds by section; whatever the nesting, they add up to what was between the outermost start and end.

    `synchronize` is called at every change of section: a GPU's work must be over to be counted where it was
    asked for.  Not for two threads at the same time.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time inside belongs to `name`, save what inner sections take."""
        self._change()
        self._open.append(name)
        try:
            yield
        finally:
            self._change()
            self._open.pop()

    def _change(self) -> None:
        self._synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def watching(self, functions: Iterable[Watched]) -> Iterator[None]:
        """Time calls of functions while inside; afterwards they are as before."""
        with contextlib.ExitStack() as stack:
            for each in functions:
                stack.callback(_put_back, each, vars(each.owner).get(each.function))
                setattr(each.owner, each.function, self._timed(each))
            yield

    def _timed(self, watched: Watched) -> Callable[..., Any]:
        function = getattr(watched.owner, watched.function)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.section(watched.section):
                result = function(*arguments, **named)
            if watched.afterwards and self._open:
                self._open[-1] = watched.afterwards
            return result

        return timed


def _put_back(watched: Watched, original: Any) -> None:
    if original is None:  # it was not the object's own, but its class's
        delattr(watched.owner, watched.function)
    else:
        setattr(watched.owner, watched.function, original)
