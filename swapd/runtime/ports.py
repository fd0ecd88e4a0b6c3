"""What the shell needs from the outside, as Protocols: the composition root plugs in the real ones.

Nothing here decides; nothing here knows llama.cpp, NVML or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from swapd.core.model import Device, DeviceId, Footprint, Placement, ResidentId, Tier, Variant, VariantId
from swapd.core.state import Measurement
from swapd.errors import WorkerFailed
from swapd.generation import Chunk, Ending, GenerationRequest, Say
from swapd.questions import Question, Reply, VocabularyQuestion
from swapd.served import Model
from swapd.units import Bytes, Seconds


class Telling(Protocol):
    """An answer as it comes, an Ending last. Raises ContextLengthExceeded, InvalidRequest, WorkerFailed."""

    async def wait_first(self) -> Chunk | Ending:
        """What will be told first, when it is there."""

    async def hear(self, say: Say) -> bool:
        """Tells `say` what there is, and what comes in the moment in which it comes, until that can take no more or
        all is told; what it raises is raised here. Whether there is more to hear.
        """

    def close(self) -> None:
        """Owed once, however it went; early, it frees the slot at the next token."""


class Workers(Protocol):
    """The parent's end of all workers."""

    async def start(
        self,
        resident: ResidentId,
        variant: Variant,
        placement: Placement,
        pci: tuple[str, ...],
        progressed: Callable[[float], None],
    ) -> None:
        """Load the variant in a worker of its own; `progressed` gets fractions. Raises WorkerFailed."""

    def hand_on(self, resident: ResidentId, heir: ResidentId) -> None:
        """The heir has this one's worker from now on; its `start` makes another context for the weights there."""

    async def stop(self, resident: ResidentId) -> None:
        """Terminate, kill after a grace, reap. Safe at any time and twice; returns when the process is gone."""

    async def generate(self, resident: ResidentId, request: GenerationRequest) -> Telling:
        """The answer, of which the caller owes a `close`. Raises WorkerFailed."""

    async def ask(self, resident: ResidentId, question: Question) -> Reply:
        """Raises ContextLengthExceeded, InvalidRequest, WorkerFailed."""

    def build(self) -> str | None:
        """llama.cpp's version; None until a worker has told."""

    def pids(self) -> Mapping[ResidentId, int]:
        """Of every live worker that has, or is getting, a model."""

    def notify_deaths(self, died: Callable[[ResidentId, WorkerFailed], None]) -> None:
        """Call this when a loaded worker dies that nobody stopped."""


class Sizes(Protocol):
    async def size(self, variant: Variant, placement: Placement, pci: tuple[str, ...]) -> Footprint:
        """What llama.cpp says that this load would take. Raises WorkerFailed when it cannot say."""

    @property
    def pid(self) -> int | None:
        """Of the process that sizes, while there is one: what it holds on a card can be had back at once."""

    async def release(self) -> None:
        """Let that process end, and return when it has."""


class Clerk(Protocol):
    async def ask(self, path: str, question: VocabularyQuestion) -> Reply:
        """Answered from the file's vocabulary; nothing is loaded. Raises InvalidRequest, WorkerFailed."""


class Lessons(Protocol):
    """Where what loads really took is kept from one run of the daemon to the next."""

    def learn(
        self,
        variant: VariantId,
        placement: Placement,
        build: str,
        footprint: Footprint,
        measurement: Measurement | None = None,
        floor: Footprint | None = None,
    ) -> None: ...

    def learn_overheads(self, build: str, overheads: Mapping[DeviceId, Bytes]) -> None: ...

    def learn_loads(self, variant: VariantId, loads: Mapping[Tier, Seconds]) -> None: ...


class Files(Protocol):
    """Model files in the kernel's page cache. Blocks: called in threads."""

    def share(self, path: str) -> float | None:
        """Of all files of the model whose first one this is, from 0 to 1; None: not known."""

    def read(self, path: str, size: Bytes, is_wanted: Callable[[], bool]) -> None:
        """Have so much of them in the page cache, from the start; ends when it is not wanted. Raises OSError."""


class Memory(Protocol):
    def measure(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        """Every device of this machine, now. May block for milliseconds: called in a thread, one call at a time."""


class Clock(Protocol):
    def __call__(self) -> float:
        """Seconds that never fall."""


class Catalog(Protocol):
    """The models this host knows; a scan may take long and runs in a thread."""

    def scan(self) -> None: ...

    def models(self) -> tuple[Model, ...]:
        """All, by name, unusable and shadowed ones too."""

    def resolve(self, name: str) -> Model:
        """The model that a name, alias or task stands for. Raises ModelNotFound, ModelUnusable."""

    def route(self, name: str) -> tuple[str, ...]:
        """The models that a task may go to, the first choice first; empty: this is no task."""
