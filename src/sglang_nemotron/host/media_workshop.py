"""What reads the media of a server: items come in as clients sent them, measured parcels go out.

Made once in each process that answers HTTP, as soon as that has a media processor of ours.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sglang_nemotron.host.hf_config_omni import omni_spec_of
from sglang_nemotron.host.media_pool import Pool
from sglang_nemotron.host.media_settings import MediaSettings, media_settings
from sglang_nemotron.host.media_shm import receive_inline, receive_shared
from sglang_nemotron.host.media_source import Fetched, fetch
from sglang_nemotron.host.media_spool import spool_bodies
from sglang_nemotron.host.media_worker import Terms
from sglang_nemotron.prompt.parcel import Order, Parcel, Service, drop
from sglang_nemotron.prompt.tags import TagEncoder

# downloads and base64 of requests, beside the workers that read what they bring
_NUM_FETCHERS = 8


class Workshop:
    """Fetches and measures items. stamp: begins the names of the files in between."""

    def __init__(self, settings: MediaSettings, pool: Pool, stamp: str) -> None:
        self._settings = settings
        self._pool = pool
        self._stamp = stamp
        self._fetchers = ThreadPoolExecutor(_NUM_FETCHERS, thread_name_prefix="nemotron-fetch")
        # what waits for a worker lies in memory
        self._held = asyncio.Semaphore(_NUM_FETCHERS + settings.workers)

    async def measure(self, order: Order, item: Any) -> list[Parcel]:
        gone = asyncio.Event()
        job = asyncio.ensure_future(self._measure(order, item, gone))
        try:
            # a client that goes away must not take a file from under a worker, nor leave one behind
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            gone.set()
            job.add_done_callback(_forget)
            raise

    async def _measure(self, order: Order, item: Any, gone: asyncio.Event) -> list[Parcel]:
        async with self._held:
            if gone.is_set():
                return []
            fetched = await asyncio.get_running_loop().run_in_executor(self._fetchers, self._fetch, order, item)
            try:
                return [] if gone.is_set() else await self._pool.measure(order, fetched.path)
            finally:
                fetched.drop()

    def _fetch(self, order: Order, item: Any) -> Fetched:
        settings = self._settings
        return fetch(
            item, name=order.name, max_file=settings.max_file, seconds=settings.fetch_seconds, stamp=self._stamp
        )

    def close(self) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._pool.close()


def _forget(job: asyncio.Task[list[Parcel]]) -> None:
    """For a result that nobody waits for any more; looking at an error keeps asyncio from logging it."""
    if not job.cancelled() and job.exception() is None:
        drop(job.result())


def serve(manager: Any) -> None:
    """Gives the processor of a server its service; ValueError for a setting or a tokenizer that cannot be served."""
    processor = manager.mm_processor
    config = manager.model_config
    spec = omni_spec_of(config.hf_config)
    settings = media_settings(os.environ, spec.image)
    stamp = f"sgl_shm_mm_{os.getpid()}_"
    spool_bodies(stamp)
    terms = Terms(
        spec=spec,
        bounds=settings.bounds,
        pixels=config.dtype,
        memory=settings.memory,
        max_file=settings.max_file,
        timeout=settings.timeout,
        stamp=stamp,
    )
    # where SGLang sends features inside messages, it unpacks no shared memory
    inline = processor.transport_mode == "default" or processor.skip_tokenizer_init
    receive = receive_inline if inline else receive_shared
    processor.nemotron_service = Service(
        spec=spec,
        encoder=TagEncoder(processor._tokenizer, spec.tokens),
        workshop=Workshop(settings, Pool(terms, settings.workers, receive), stamp),
        options=settings.options,
        limits=settings.bounds.video,
        context_length=manager.context_len,
        # SGLang refuses a prompt that fills the context, and counts a few reserved tokens in
        max_prompt=manager.context_len - manager.num_reserved_tokens - 1,
    )
