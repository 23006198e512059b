"""How a single record's call is made: retries with backoff and jitter, a time limit, side by side or in turn."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import tenacity

from batch_provider.domain.errors import BatchError, StorageError
from batch_provider.domain.spec import CallPolicy

Job = tuple[dict[str, Any], dict[str, Any]]
"""A payload and its keyword arguments."""


@dataclass(frozen=True)
class Outcome:
    """What one record's call gave, after its retries."""

    returned: Any
    error: Exception | None
    seconds: float
    variables: Any = None
    """The record's variables as the last try left them."""


Waiting = Callable[[], list[Outcome]]
"""Waits for the calls of a run; their outcomes come in the order of the jobs."""
Begin = Callable[[Sequence[Job]], Waiting]


@contextmanager
def calling(function: Callable[..., Any], policy: CallPolicy) -> Iterator[Begin]:
    """What begins the calls for a run of jobs as ``policy`` says; for all runs of a block on one loop or one pool.

    Begin the next run before the outcomes of the one before are waited for, and a slow call keeps nobody waiting. A
    coroutine function runs ``policy.concurrency`` calls at a time on an event loop; a plain function in as many
    threads, or in turn when it is 1: then a run's calls are made when they are waited for.
    """
    if is_async(function):
        with _on_a_loop(function, policy) as begin:
            yield begin
    elif policy.concurrency > 1 or policy.timeout is not None:
        with _in_threads(function, policy) as begin:
            yield begin
    else:
        yield lambda jobs: lambda: [_one(function, job, policy) for job in jobs]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine."""
    inner = getattr(function, "func", function)  # a partial with Airflow's context bound
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def wait_for(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it on an event loop of its own: in a thread where one is running already, as in a notebook."""
    if not _is_loop_running():
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1, thread_name_prefix="batch-step-loop") as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _is_loop_running() -> bool:
    """Asked on its own: what is raised inside the ``except`` that answers it would be told with that error."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _retry_options(policy: CallPolicy) -> dict[str, Any]:
    backoff = tenacity.wait_exponential(multiplier=policy.retry_delay, max=policy.max_retry_delay)
    wait = backoff + tenacity.wait_random(0, policy.retry_delay)
    return {
        "stop": tenacity.stop_after_attempt(policy.retries + 1),
        "wait": wait,
        "retry": tenacity.retry_if_exception(lambda error: _is_retried(error, policy)),
        "reraise": True,
    }


def _is_retried(error: BaseException, policy: CallPolicy) -> bool:
    """Whether it is worth another try: by its own type, or by that of the database's error that it stands for."""
    stands_for = error.__cause__ if isinstance(error, StorageError) else None
    return isinstance(error, policy.retry_on) or isinstance(stands_for, policy.retry_on)


def _one(function: Callable[..., Any], job: Job, policy: CallPolicy) -> Outcome:
    tries = _Tries(function, job, policy)
    started = perf_counter()
    try:
        returned = _retried(tries.call, policy) if policy.retries else tries.call()
    except BatchError:
        raise  # an outage, or a successor: no record after this one need be tried
    except Exception as error:  # noqa: BLE001  # this is where user code ends
        return Outcome(None, error, perf_counter() - started)
    return Outcome(returned, None, perf_counter() - started, tries.variables)


class _Tries:
    """The tries of one record: what a failed or late one changed must not be seen by the next, nor by anyone."""

    def __init__(self, function: Callable[..., Any], job: Job, policy: CallPolicy) -> None:
        self._function, self._job = function, job
        self._copies = policy.retries > 0 or policy.timeout is not None
        self.variables: Any = None

    def call(self) -> Any:
        """One try; of a coroutine function, what is to be awaited."""
        record, keywords = deepcopy(self._job) if self._copies else self._job
        self.variables = keywords.get("variables")
        return self._function(record, **keywords)


def _retried(call: Callable[[], Any], policy: CallPolicy) -> Any:
    """The first try by itself: tenacity costs ten times what a simple call does (measured)."""
    try:
        return call()
    except Exception as error:
        if not _is_retried(error, policy):
            raise
        failed = [error]

    def again() -> Any:
        if failed:
            raise failed.pop()
        return call()

    return tenacity.Retrying(**_retry_options(policy))(again)


@contextmanager
def _in_threads(function: Callable[..., Any], policy: CallPolicy) -> Iterator[Begin]:
    limited = None if policy.timeout is None else _TimeLimited(function, policy)
    pool = ThreadPoolExecutor(policy.concurrency, thread_name_prefix="batch-step")

    def begin(jobs: Sequence[Job]) -> Waiting:
        futures = [pool.submit(_one, limited or function, job, policy) for job in jobs]
        return lambda: [future.result() for future in futures]

    try:
        yield begin
    finally:
        pool.shutdown(cancel_futures=True)
        if limited is not None:
            limited.close()


class _TimeLimited:
    """A plain function with a time limit: a running call cannot be interrupted, so it is left behind."""

    def __init__(self, function: Callable[..., Any], policy: CallPolicy) -> None:
        self._function, self._seconds = function, policy.timeout
        self._pool = ThreadPoolExecutor(policy.concurrency * 2, thread_name_prefix="batch-step-timed")

    def __call__(self, record: dict[str, Any], **keywords: Any) -> Any:
        """Call it, and give up waiting when the time is over."""
        future = self._pool.submit(self._function, record, **keywords)
        try:
            return future.result(self._seconds)
        except FutureTimeoutError:
            if future.done():
                raise  # the function's own TimeoutError
            future.cancel()
            raise TimeoutError(f"no answer within {self._seconds:g} s") from None

    def close(self) -> None:
        """Do not wait for the calls that were left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _on_a_loop(function: Callable[..., Any], policy: CallPolicy) -> Iterator[Begin]:
    gate = asyncio.Semaphore(policy.concurrency)

    async def one(job: Job) -> Outcome:
        async with gate:
            return await _one_async(function, job, policy)

    async def all_of(tasks: Sequence[asyncio.Task[Outcome]]) -> list[Outcome]:
        return list(await asyncio.gather(*tasks))

    with _runner() as (loop, run):

        def begin(jobs: Sequence[Job]) -> Waiting:
            tasks = [loop.create_task(one(job)) for job in jobs]
            return lambda: run(all_of(tasks))

        yield begin


@contextmanager
def _runner() -> Iterator[tuple[asyncio.AbstractEventLoop, Callable[..., Any]]]:
    """An event loop and what runs a coroutine on it; what is left on it at the end is cancelled."""
    runner = asyncio.Runner()
    if not _is_loop_running():
        with runner:
            yield runner.get_loop(), runner.run
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batch-step-loop") as pool:
        try:
            yield pool.submit(runner.get_loop).result(), lambda coroutine: pool.submit(runner.run, coroutine).result()
        finally:
            pool.submit(runner.close).result()


async def _one_async(function: Callable[..., Any], job: Job, policy: CallPolicy) -> Outcome:
    tries = _Tries(function, job, policy)

    async def call() -> Any:
        try:
            async with asyncio.timeout(policy.timeout) as limit:
                return await tries.call()
        except TimeoutError:
            if not limit.expired():
                raise  # the function's own
            raise TimeoutError(f"no answer within {policy.timeout:g} s") from None

    started = perf_counter()
    try:
        returned: Any = await _retried_async(call, policy)
    except Exception as error:  # noqa: BLE001  # this is where user code ends
        return Outcome(None, error, perf_counter() - started)
    return Outcome(returned, None, perf_counter() - started, tries.variables)


async def _retried_async(call: Callable[[], Coroutine[Any, Any, Any]], policy: CallPolicy) -> Any:
    """As :func:`_retried`."""
    try:
        return await call()
    except Exception as error:
        if not _is_retried(error, policy):
            raise
        failed = [error]

    async def again() -> Any:
        if failed:
            raise failed.pop()
        return await call()

    return await tenacity.AsyncRetrying(**_retry_options(policy))(again)
