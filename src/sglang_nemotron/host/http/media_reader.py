"""What reads the media of a server: items come in as clients sent them, measured features go out.

Made once in each process that answers HTTP, as soon as that has a media processor of ours.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sglang_nemotron.config.omni import omni_spec_of
from sglang_nemotron.host import counts
from sglang_nemotron.host.http.body_spool import spool_bodies
from sglang_nemotron.host.http.fetch import Fetched, fetch
from sglang_nemotron.host.http.shared_tensor import receive_inline, receive_shared
from sglang_nemotron.media.features import MediaFeatures, ReadRequest, drop
from sglang_nemotron.prompt.tags import TagEncoder
from sglang_nemotron.reader.origins import Origins
from sglang_nemotron.reader.pool import Pool
from sglang_nemotron.reader.service import MediaService
from sglang_nemotron.reader.settings import WorkerConfig, media_origins, worker_config
from sglang_nemotron.sglang_api.media import get_mm

# downloads and base64 of requests, beside the workers that read what they bring
_NUM_FETCHERS = 8


class MediaReader:
    """Fetches and measures items. origins: where they may come from."""

    def __init__(self, config: WorkerConfig, pool: Pool, origins: Origins) -> None:
        self._config = config
        self._origins = origins
        self._pool = pool
        self._fetchers = ThreadPoolExecutor(_NUM_FETCHERS, thread_name_prefix="nemotron-fetch")
        # what waits for a worker lies in memory
        self._held = asyncio.Semaphore(_NUM_FETCHERS + config.workers)

    async def measure(self, request: ReadRequest, item: Any) -> list[MediaFeatures]:
        gone = asyncio.Event()
        job = asyncio.ensure_future(self._measure(request, item, gone))
        try:
            # a client that goes away must not take a file from under a worker, nor leave one behind
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            gone.set()
            job.add_done_callback(_forget)
            raise

    async def _measure(self, request: ReadRequest, item: Any, gone: asyncio.Event) -> list[MediaFeatures]:
        async with self._held:
            if gone.is_set():
                return []
            fetched = await asyncio.get_running_loop().run_in_executor(self._fetchers, self._fetch, request, item)
            try:
                return [] if gone.is_set() else await self._pool.measure(request, fetched.path)
            finally:
                fetched.drop()

    def _fetch(self, request: ReadRequest, item: Any) -> Fetched:
        config = self._config
        return fetch(
            item,
            name=request.name,
            max_file=config.max_file,
            seconds=config.fetch_seconds,
            stamp=config.stamp,
            origins=self._origins,
        )

    def close(self) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._pool.close()


def _forget(job: asyncio.Task[list[MediaFeatures]]) -> None:
    """For a result that nobody waits for any more; looking at an error keeps asyncio from logging it."""
    if not job.cancelled() and job.exception() is None:
        drop(job.result())


def serve(manager: Any) -> None:
    """Gives the processor of a server its service; ValueError for a setting or a tokenizer that cannot be served."""
    processor, model_config = manager.mm_processor, manager.model_config
    spec = omni_spec_of(model_config.hf_config)
    stamp = f"sgl_shm_mm_{os.getpid()}_"
    config = worker_config(os.environ, spec, pixels=model_config.dtype, stamp=stamp)
    flags = get_mm()
    origins = media_origins(os.environ, flags.allowed_media_domains, flags.media_url_max_file_size_mb)
    spool_bodies(stamp)
    # where SGLang sends features inside messages, it unpacks no shared memory
    inline = processor.transport_mode == "default" or processor.skip_tokenizer_init
    receive = receive_inline if inline else receive_shared
    counts.put(counts.WORKERS, config.workers)
    processor.nemotron_service = MediaService(
        spec=spec,
        encoder=TagEncoder(processor._tokenizer, spec.tokens),
        reader=MediaReader(config, Pool(config, config.workers, receive, counts.reading), origins),
        options=config.options,
        limits=config.limits,
        context_length=manager.context_len,
        # SGLang refuses a prompt that fills the context, and counts a few reserved tokens in
        max_prompt=manager.context_len - manager.num_reserved_tokens - 1,
    )
