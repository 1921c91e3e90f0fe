"""The device that work computes on: decided in the process that does it, and asked for there.

A backend knows what its workers have and runs tasks and client hosts inside `working_on`; the functions themselves
ask `here`. So nobody has to be told of devices who cannot see them, and everything that does not ask computes on the
CPU, as ever.

A function that can use a GPU says so in its needs (`base.ACCELERATED`), and has two paths at most: arrays where
`accelerated` is False, whose bytes are the project's reference, and tensors on `here()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from raysim.errors import ConfigError

if TYPE_CHECKING:
    import torch

Wanted = Literal["auto", "cpu", "cuda"]
"""`auto`: a GPU where torch can use one."""

CPU: Final = "cpu"

REHEARSAL: Final = "cpu:0"
"""The CPU in a GPU's place: what runs there takes a GPU's path, copies to and from it included."""

_HERE: ContextVar[str] = ContextVar("device", default=CPU)


def here() -> str:
    """The device of the work under way in this thread: `cpu` or `cuda:0`; `cpu` if nothing was decided.

    >>> here()
    'cpu'
    """
    return _HERE.get()


@contextmanager
def working_on(device: str) -> Iterator[None]:
    """Inside the block, `here` is this device.

    On a GPU, convolutions are computed in float32 (torch's default is TF32, with three digits) and by algorithms that
    give the same answer each time.
    """
    token = _HERE.set(device)
    try:
        if kind(device) == CPU:
            yield
            return
        import torch

        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.cuda.device(device), exact:
            yield
    finally:
        _HERE.reset(token)


def accelerated() -> bool:
    """Whether the work under way in this thread is to compute with tensors on `here()`."""
    return here() != CPU


def tensor(values: np.ndarray) -> torch.Tensor:
    """A copy of an array on `here()`."""
    import torch

    source = torch.from_numpy(values if values.flags.writeable else values.copy())
    return source.to(here(), copy=True)


def reset_peak_bytes() -> None:
    """Start a new peak of this process's tensors on `here()`, if that is a GPU."""
    if kind(here()) == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(here())


def peak_bytes() -> int | None:
    """The most bytes of this process's tensors on `here()` since `reset_peak_bytes`; None if that is not a GPU."""
    if kind(here()) != "cuda":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(here()))


def obstacle() -> str:
    """Why torch cannot compute on a GPU in this process, or ""."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs alone"
    return "" if torch.cuda.is_available() else "torch finds no CUDA device"


def decided(wanted: Wanted, place: int = 0) -> str:
    """`cpu`, or the GPU that worker number `place` uses of those that this process sees.

    ConfigError if a GPU must be used and there is none.
    """
    if wanted == CPU:
        return CPU
    reason = obstacle()
    if not reason:
        import torch

        return f"cuda:{place % torch.cuda.device_count()}"
    if wanted == "cuda":
        raise ConfigError("resources.device", f"must be a device that is there: {reason}", wanted, CPU)
    return CPU


def kind(device: str) -> str:
    """`cpu` or `cuda`.

    >>> kind("cuda:1")
    'cuda'
    """
    return device.partition(":")[0]


def name(device: str) -> str:
    """What the device is called: a GPU's model, else `cpu`."""
    if kind(device) == CPU:
        return CPU
    import torch

    return str(torch.cuda.get_device_name(device))
