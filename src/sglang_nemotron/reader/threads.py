"""Jobs that a media worker's main thread hands out come in; threads on other processors than its own do them.

Linux mostly wakes a thread where the one runs that woke it. There it would wait, beside an idle processor, until loads
are balanced anew: up to 4 ms, and a photo takes 7. So it is told beforehand where threads may run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor

# None where the C library has no such function
_this_processor = getattr(ctypes.CDLL(None), "sched_getcpu", None)


# for threads to start in, on a machine that may be busy loading a model
START_SECONDS = 60.0


class SideThreads(ThreadPoolExecutor):
    """So many threads, all of them started; RuntimeError where there may be no more. native_ids: as the system calls
    them."""

    def __init__(self, number: int) -> None:
        super().__init__(number, thread_name_prefix="beside")
        # none is done before all are there
        met = threading.Barrier(number, timeout=START_SECONDS)
        try:
            begun = [self.submit(lambda: (met.wait(), threading.get_native_id())[1]) for _ in range(number)]
            self.native_ids = [one.result() for one in begun]
        except RuntimeError:
            # those that wait would keep the process from ending
            met.abort()
            raise

    def keep_away(self) -> None:
        """From the processor on which the calling thread runs now, if it may use others. Until the next call."""
        if _this_processor is None:
            return
        # a sandbox may forbid it, and whoever runs us may take processors away meanwhile
        with contextlib.suppress(OSError):
            allowed = os.sched_getaffinity(0)
            for native_id in self.native_ids:
                os.sched_setaffinity(native_id, allowed - {_this_processor()} or allowed)
