"""Ranks that say every few seconds that they are alive: one that is stopped, or lost, ends the others within a minute.

A collective waits an hour, since one rank may embed texts or validate that long; a rank that is at work still beats
meanwhile, on a thread of its own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

BEAT_S = 3.0
LOST_S = 40.0
"""Seconds of silence after which a rank is taken to be lost."""
_ANSWER_S = 15.0
"""Seconds that the store of beats, which rank 0 keeps, may take to answer."""


@contextmanager
def heartbeat(rank: int, world: int) -> Iterator[None]:
    """While the block runs, end this process where another rank is silent for ``LOST_S``.

    Rank 0 listens to all, the others to rank 0. Where the block ends well all ranks leave it together.
    """
    store = _store(rank)
    beats = _Beats(store, rank, range(1, world) if rank == 0 else (0,), _end)
    beats.start()
    try:
        yield
        dist.barrier()  # the store goes with rank 0
    finally:
        beats.stopping.set()


def _store(rank: int) -> Store:
    """A store that rank 0 keeps, at a port that it tells the others."""
    host = os.environ.get("MASTER_ADDR", "localhost")
    wait = timedelta(seconds=_ANSWER_S)
    mine = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=wait) if rank == 0 else None
    port = [mine.port if mine is not None else 0]
    dist.broadcast_object_list(port, src=0)
    return mine or TCPStore(host, port[0], is_master=False, timeout=wait)


class _Beats:
    """Two threads of one rank: one beats and listens to some of the others, one notices when that has stopped.

    A store that stands still does not answer, and no call of it ends then.
    """

    def __init__(self, store: Store, rank: int, others: Sequence[int], lost: Callable[[int], None]) -> None:
        self.stopping = threading.Event()
        self._store, self._rank, self._lost = store, rank, lost
        self._heard = {other: (b"", time.monotonic()) for other in others}
        self._answered = time.monotonic()
        self._gone = False

    def start(self) -> None:
        """Begin both."""
        for work in (self._talk, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def _talk(self) -> None:
        count = 0
        while not self.stopping.wait(BEAT_S):
            count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(count))
                for other, (beat, _) in self._heard.items():
                    key = f"beat/{other}"
                    if self._store.check([key]) and (found := self._store.get(key)) != beat:
                        self._heard[other] = found, time.monotonic()
            except RuntimeError:
                self._gone = True  # who keeps the store has ended
                return
            self._answered = time.monotonic()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self.stopping.wait(BEAT_S):
            now = time.monotonic()
            if now - last > LOST_S / 2:  # this process stood still itself, and perhaps all of them did
                self._heard = {other: (beat, now) for other, (beat, _) in self._heard.items()}
                self._answered = now
            last = now
            silent = next((other for other, (_, heard) in self._heard.items() if now - heard > LOST_S), None)
            if silent is None and (self._gone or now - self._answered > LOST_S):
                silent = 0
            if silent is not None and not self.stopping.is_set():
                self._lost(silent)
                return


def _end(rank: int) -> None:
    """End this process: its main thread waits in a collective, where no exception reaches it."""
    sys.stderr.write(
        f"ctglip: rank {rank} of the processes that train together is lost or stands still; what was saved is kept. "
        "Start all of them again with --resume.\n"
    )
    sys.stderr.flush()
    os._exit(2)
