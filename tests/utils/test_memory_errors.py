"""How errors of libraries say that memory has run out."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch
from layerselect.utils.memory_errors import GPU, HOST, ran_out, unless_memory

OF_SAFETENSORS = type("SafetensorError", (Exception,), {})
ON_CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 79 GiB"), GPU),
        (torch.OutOfMemoryError(), GPU),
        (RuntimeError("CUDA error: out of memory"), GPU),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), GPU),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), GPU),
        (RuntimeError(f"{ON_CPU} allocate 8000 bytes. Error code 12 (Cannot allocate memory)"), HOST),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."), HOST),
        (RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\nTrace\n{ON_CPU}"), HOST),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), HOST),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is out of shared memory."), HOST),
        (RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"), HOST),
        (OF_SAFETENSORS("Error while deserializing: Cannot allocate memory (os error 12)"), HOST),
        (MemoryError(), HOST),
        (MemoryError("std::bad_alloc"), HOST),
        (np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("float64")), HOST),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), HOST),
        (RuntimeError("the shapes differ"), None),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated."), None),
        (ValueError("row 3 says: out of memory"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
    ],
)
def test_every_library_has_its_own_words(error, place):
    assert ran_out(error) == place
    if place is None:
        unless_memory(error)
    else:
        with pytest.raises(type(error)):
            unless_memory(error)


def made_of(inner, outer, *, hidden=False):
    try:
        try:
            raise inner
        except type(inner) as error:
            if hidden:
                raise outer from None
            raise outer from error
    except type(outer) as error:
        return error


def test_an_error_that_another_one_was_made_of_is_found():
    assert ran_out(made_of(MemoryError(), OSError("unable to load weights"))) == HOST
    assert ran_out(made_of(torch.OutOfMemoryError("x"), ValueError("the model cannot be run"))) == GPU
    assert ran_out(made_of(MemoryError(), ValueError("another matter"), hidden=True)) is None
    circle = ValueError("one")
    circle.__cause__ = circle
    assert ran_out(circle) is None
