"""Has models let go of what they hold, each on a thread of its own: what a model does there may never end.

Whoever needs the room waits a while, and then does without; a model that is late keeps its own memory, and nothing
else. Thread-safe. Used by `inference/stock.py` and `inference/lease.py`.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait

from inference.runtime import Runtime

log = logging.getLogger(__name__)


class Farewells:
    """Those of one repository's models.

    Args:
        patience_s: how long anybody waits for one.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._going: dict[Future[None], str] = {}
        self._late: set[Future[None]] = set()
        self._hurried = False

    @property
    def late(self) -> int:
        """Count the models that have been told to let go, and have not within the time that anybody waits."""
        return len(self._late)

    def unload(self, model: str, runtime: Runtime) -> Future[None] | None:
        """Have a model let go of what it holds, and wait for it, but not for ever. Never raises.

        Gives None when it has; otherwise what is done when it has after all.
        """
        if type(runtime).unload is Runtime.unload:
            # It only holds memory.
            return None
        over = Future[None]()
        with self._lock:
            self._going[over] = model
        try:
            threading.Thread(target=self._let_go, args=(model, runtime, over), name="unload model", daemon=True).start()
        except RuntimeError:
            # The system gives no more threads, and this one may wait.
            self._let_go(model, runtime, over)
        if not self._hurried:
            self._wait([over])
        return None if over.done() else over

    def soon(self, model: str, runtime: Runtime) -> None:
        """Do the same for who has calls to answer, and must not wait. Never raises."""
        if type(runtime).unload is Runtime.unload:
            return
        try:
            threading.Thread(target=self.unload, args=(model, runtime), name="await unload", daemon=True).start()
        except RuntimeError as exc:
            # Python frees what it can: the caller holds it no longer.
            log.error("model %s is not told to let go of what it holds: %s", model, exc)  # noqa: TRY400 - not ours

    def hurry(self) -> None:
        """Wait for none by itself from now on: `finish` does for all together."""
        self._hurried = True

    def finish(self) -> None:
        """Wait a while for all that are on their way."""
        with self._lock:
            going = list(self._going)
        self._wait(going)

    def _wait(self, going: list[Future[None]]) -> None:
        for over in wait(going, self._patience_s).not_done:
            with self._lock:
                model = self._going.get(over)
                if model is None or over in self._late:
                    continue
                self._late.add(over)
            log.warning(
                "model %s has not let go of what it holds within %g s, and is not waited for any longer",
                model, self._patience_s,
            )  # fmt: skip

    def _let_go(self, model: str, runtime: Runtime, over: Future[None]) -> None:
        try:
            runtime.unload()
        except BaseException:  # whatever a model does there, whoever waits works for other models
            log.exception("model %s did not let go of all it holds", model)
        with self._lock:
            del self._going[over]
            late = over in self._late
            self._late.discard(over)
        if late:
            log.info("model %s has let go of what it holds after all", model)
        over.set_result(None)
