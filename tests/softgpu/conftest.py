"""Processes beside the test that do one thing after another on soft cards, or watch them through pynvml."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

LOOP = """
import json, sys
for line in sys.stdin:
    try:
        answer = eval(line)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=repr), flush=True)
"""

WATCHER = """
import pynvml
from pynvml import *
from swapd.host.memory import MachineMemory

def processes(card, draws=False):
    list_of = nvmlDeviceGetGraphicsRunningProcesses if draws else nvmlDeviceGetComputeRunningProcesses
    return {p.pid: p.usedGpuMemory for p in list_of(nvmlDeviceGetHandleByIndex(card))}

def memory(card):
    seen = nvmlDeviceGetMemoryInfo(nvmlDeviceGetHandleByIndex(card))
    return [seen.total, seen.free, seen.used]

machine = MachineMemory()
def measure(workers={}):
    cards = [device for device in machine.measure(workers) if device.source == "nvml"]
    return [[d.id, d.pci, d.total, d.free, d.ours, d.foreign] for d in cards]

nvmlInit()
"""

PROGRAM = """
import ctypes, threading, time
import llama_cpp
ggml, base = ctypes.CDLL("libggml.so.0"), ctypes.CDLL("libggml-base.so.0")

def call(name, *given, gives=ctypes.c_void_p, library=base):
    function = getattr(library, name)
    function.restype = gives
    return function(*(ctypes.c_void_p(g) if g is None or isinstance(g, int) and g > 2**31 else g for g in given))

call("ggml_backend_load_all", gives=None, library=ggml)
cards = [d for d in (call("ggml_backend_dev_get", ctypes.c_size_t(i), library=ggml)
         for i in range(call("ggml_backend_dev_count", gives=ctypes.c_size_t, library=ggml)))
         if call("ggml_backend_dev_name", d, gives=ctypes.c_char_p).startswith(b"SoftGPU")]

def take(size, card=0):
    kind = call("ggml_backend_dev_buffer_type", cards[card])
    return call("ggml_backend_buft_alloc_buffer", kind, ctypes.c_size_t(size))

def give(buffer):
    return call("ggml_backend_buffer_free", buffer, gives=None)

class Params(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))

begun = {}
def begin(card=0):
    begun[card] = call("ggml_backend_dev_init", cards[card], None)
    return bool(begun[card])

def compute(values, card=0):
    "Twice these numbers, by the card."
    base.ggml_init.restype = ctypes.c_void_p
    context = base.ggml_init(Params(2**20, None, True))
    given = call("ggml_new_tensor_1d", context, 0, ctypes.c_int64(len(values)))
    result = call("ggml_add", context, given, given)
    graph = call("ggml_new_graph", context)
    call("ggml_build_forward_expand", graph, result, gives=None)
    kind = call("ggml_backend_dev_buffer_type", cards[card])
    buffer = call("ggml_backend_alloc_ctx_tensors_from_buft", context, kind)
    numbers = (ctypes.c_float * len(values))(*values)
    size = ctypes.c_size_t(ctypes.sizeof(numbers))
    call("ggml_backend_tensor_set", given, numbers, ctypes.c_size_t(0), size, gives=None)
    call("ggml_backend_graph_compute", begun[card], graph, gives=ctypes.c_int)
    call("ggml_backend_tensor_get", result, numbers, ctypes.c_size_t(0), size, gives=None)
    give(buffer)
    call("ggml_free", context, gives=None)
    return list(numbers)

def seconds_to_move(size, card=0):
    buffer = take(size, card)
    began = time.monotonic()
    compute([0.0] * (size // 4), card)
    give(buffer)
    return time.monotonic() - began

def hammer(rounds, sizes):
    "Take and give in two threads; how often the card was full."
    full = []
    def work():
        for turn in range(rounds):
            buffer = take(sizes[turn % len(sizes)])
            if buffer: give(buffer)
            else: full.append(turn)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return len(full)
"""


class Peer:
    """A process; each expression is evaluated there when asked, and answered as JSON."""

    def __init__(self, prelude: str, environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", prelude + LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.pid = self.process.pid

    def ask(self, expression: str) -> Any:
        self.order(expression)
        return self.answer()

    def order(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(self.last_words())
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """What it wrote on stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """`peer(PROGRAM, gpu.env)`: a program on the cards; `peer(WATCHER, gpu.env)`: one that asks NVML."""
    with contextlib.ExitStack() as stack:

        def start(prelude: str, environ: Mapping[str, str]) -> Peer:
            started = Peer(prelude, environ)
            stack.callback(started.close)
            return started

        yield start
