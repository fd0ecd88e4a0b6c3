"""The API's outside for its tests: a gateway that answers by script and keeps its own books."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias, assert_never

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from swapd.api.app import GuardSettings, make_app
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Shape, Variant, VariantId
from swapd.core.state import State
from swapd.errors import InvalidRequest, ModelNotFound, ModelUnusable
from swapd.generation import Chunk, Ending, GenerationRequest, News, Say, StopReason, Usage
from swapd.questions import (
    Describe,
    Described,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Render,
    Rendered,
    Reply,
    Rerank,
    Reranked,
    Tokenize,
    Tokenized,
    VocabularyQuestion,
)
from swapd.runtime import foresight, plan
from swapd.runtime.asking import Answer, Ask, Progress, Watch
from swapd.runtime.gateway import Gateway
from swapd.runtime.happenings import Happenings
from swapd.runtime.measures import Measures
from swapd.runtime.questions import Questions
from swapd.runtime.routing import Options
from swapd.runtime.status import ResidentStatus
from swapd.runtime.vectors import VectorAnswer, VectorAsk, Vectors
from swapd.served import Model, ModelEntry
from swapd.units import Bytes, GiB, MiB, Seconds, Tokens

Client: TypeAlias = TestClient[web.Request, web.Application]
Script: TypeAlias = Sequence[Chunk | Ending | News | Exception | asyncio.Event]
Serve: TypeAlias = Callable[..., Awaitable[Client]]

ENDING = Ending(StopReason.STOP, Usage(prompt=12, cached=5, completion=2, prompt_s=0.07, completion_s=0.5))
SHAPE = Shape(
    architecture="llama",
    layers=30,
    embedding=576,
    heads=9,
    kv_heads=(3,) * 30,
    key_length=64,
    value_length=64,
    vocabulary=49152,
    trained_context=8192,
    weights=98 * MiB,
)
DEVICES = (
    Device(DeviceId("cuda:0"), "Test Card", DeviceKind.GPU, "nvml", 2 * GiB, 2 * GiB),
    Device(HOST, "host", DeviceKind.HOST, "psutil", 8 * GiB, 8 * GiB),
)


def make_model(
    name: str, context: int = 4096, entry: ModelEntry | None = None, reason: str = "", pooling: str = ""
) -> Model:
    """A model of the catalog; with a reason, one that cannot be used."""
    variant = Variant(VariantId(name), name, f"/models/{name}.gguf", SHAPE, context=context, slots=4, pooling=pooling)
    return Model(
        name=name,
        path=variant.path,
        size=98 * MiB,
        modified=1_700_000_000.25,
        digest="ab" * 32,
        variant=None if reason else variant,
        embedder=None if reason or pooling else replace(variant, id=VariantId(f"{name}-vectors"), pooling="last"),
        entry=entry or ModelEntry(),
        reason=reason,
        family="llama",
        parameters=134_515_008,
        quantization="Q4_1",
    )


class ScriptedQuestions(Questions):
    """Knows no vocabulary: to render, a word is a token, and else a byte, whoever says it."""

    def __init__(self, find: Callable[[str], Awaitable[Model]]) -> None:
        self._find = find
        self.rendered: list[GenerationRequest] = []
        self.can_infill = True
        self.template = "{{ messages }}"
        self.calls: list[tuple[object, ...]] = []

    async def _ask(self, name: str, question: VocabularyQuestion) -> Reply:
        await self._find(name)
        self.calls.append((name, question))
        given = question.tokens if isinstance(question, Detokenize) else ()
        given += tuple(t for t in question.parts if isinstance(t, int)) if isinstance(question, Tokenize) else ()
        if any(not 0 <= token < 256 for token in given):
            raise InvalidRequest("cannot read 'tokens': there are 256", "tokens")
        match question:
            case Render(request):
                self.rendered.append(request)
                text = " ".join(message.content for message in request.messages)
                return Rendered(text, tuple(range(len(text.split()))))
            case Tokenize(parts):
                pieces = [bytes([part]) if isinstance(part, int) else part.encode() for part in parts]
                raw = b"".join(pieces)
                return Tokenized(tuple(raw), tuple(raw[at : at + 1] for at in range(len(raw))))
            case Detokenize(tokens):
                return Detokenized(bytes(tokens).decode("utf-8", "replace"))
            case Describe():
                return Described(self.template, "<s>", "</s>", 256, self.can_infill)


class ScriptedVectors(Vectors):
    """Vectors (3, 4, length of the input); a document's score is how many of the query's letters it has."""

    def __init__(self, find: Callable[[str], Awaitable[Model]]) -> None:
        async def options(name: str) -> Options:
            return Options((await find(name),))

        self._options = options
        self.asks: list[VectorAsk] = []

    async def _answer(self, ask: VectorAsk, model: Model) -> VectorAnswer:
        self.asks.append(ask)
        match ask.question:
            case Embed(inputs):
                vectors = tuple(struct.pack("<3f", 3, 4, len(given)) for given in inputs)
                reply: Reply = Embedded(vectors, tuple(len(given) for given in inputs))
            case Rerank(query, documents):
                reply = Reranked(tuple(float(len(set(query) & set(text))) for text in documents), 7)
            case _:
                assert_never(ask.question)
        return VectorAnswer(model, "100% GPU", 0.25, reply)


class ScriptedTelling:
    """What a script says, which begins with an item or an exception."""

    def __init__(self, script: Script) -> None:
        self._script = deque(script)

    async def wait_first(self) -> Chunk | Ending:
        match self._script[0]:
            case Exception() as error:
                raise error
            case (Chunk() | Ending() as item, *_) | (Chunk() | Ending() as item):
                return item
            case _:
                raise AssertionError("nothing is waited for before the first item")

    async def hear(self, say: Say) -> bool:
        while self._script:
            match self._script.popleft():
                case Exception() as error:
                    raise error
                case asyncio.Event() as event:
                    await event.wait()
                case item:
                    if not say(item if isinstance(item, tuple) else (item,)):
                        break
        return bool(self._script)

    def close(self) -> None:
        self._script.clear()


class ScriptedGateway(Gateway):
    """Answers every ask with `script`: what an Event in it stands for is waited for, and News come together."""

    def __init__(self) -> None:
        known = [
            make_model("tiny"),
            make_model("org/big:7b", entry=ModelEntry(aliases=("chat",))),
            make_model("broken", reason="it is no GGUF file"),
        ]
        self.known = {model.name: model for model in known}
        self.questions: ScriptedQuestions = ScriptedQuestions(self.find)
        self.script: Script = (Chunk("Hel", 1), Chunk("lo", 1), ENDING)
        self.scripts: list[Script] = []
        """Of the next asks, one each; then `script`."""
        self.refusal: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.tells: Sequence[Progress] = ()
        self.complaint: str | None = None
        self.loaded: tuple[str, ...] | None = None
        """Names of the residents; None: a usual mixture."""
        self.busy = 0
        self.told = Happenings()
        self.measured = Measures()
        self.failing_reload: Exception | None = None
        # the books
        self.asks: list[Ask] = []
        self.calls: list[tuple[object, ...]] = []
        self.open = 0
        self.cleaned = 0
        self._changed = asyncio.Event()
        self.reload = self._reload
        self.vectors: ScriptedVectors = ScriptedVectors(self.find)

    async def wait_open(self, count: int) -> None:
        """Until so many asks are waiting or answered."""
        async with asyncio.timeout(10):
            while self.open != count:
                await self._changed.wait()

    @contextlib.asynccontextmanager
    async def generate(self, ask: Ask, watch: Watch | None = None) -> AsyncIterator[Answer]:
        self.asks.append(ask)
        model = await self.find(ask.model)
        with self._opened():
            await self._hold_back(watch)
            telling = ScriptedTelling(self.scripts.pop(0) if self.scripts else self.script)
            first = await telling.wait_first()
            try:
                yield Answer(model, "100% GPU", 0.5, 0.25, first, telling)
            finally:
                await asyncio.shield(asyncio.sleep(0))  # cleaning up takes its turn, as the real thing does
                self.cleaned += 1

    async def _hold_back(self, watch: Watch | None) -> None:
        for progress in self.tells if watch is not None else ():
            assert watch is not None
            await watch(progress)
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None:
            raise self.refusal

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.open += change
        self._changed.set()
        self._changed = asyncio.Event()

    # --- names and what is done by hand

    def models(self) -> tuple[Model, ...]:
        return tuple(self.known.values())

    async def find(self, name: str) -> Model:
        for model in self.known.values():
            if name == model.name or name in model.entry.aliases:
                if model.variant is None:
                    raise ModelUnusable(name, model.reason)
                return model
        raise ModelNotFound(name, ("tiny",))

    async def refresh(self) -> None:
        self.calls.append(("refresh",))

    async def load(
        self, name: str, keep_alive: Seconds | None = None, gpu_layers: int | None = None, watch: Watch | None = None
    ) -> ResidentStatus:
        model = await self.find(name)
        self.calls.append(("load", name, keep_alive, gpu_layers))
        with self._opened():
            await self._hold_back(watch)
        return self.resident(model.name)

    def load_soon(
        self, name: str, keep_alive: Seconds | None = None, gpu_layers: int | None = None, *, why: str = "asked"
    ) -> None:
        self.calls.append(("load_soon", name, keep_alive, gpu_layers))

    async def unload(self, name: str, force: bool = False, wait: bool = True) -> bool:
        await self.find(name)
        self.calls.append(("unload", name, force, wait))
        return True

    def is_pinned(self, model: Model) -> bool:
        return model.entry.pin

    async def pin(self, name: str) -> None:
        await self.find(name)
        self.calls.append(("pin", name))

    async def unpin(self, name: str) -> None:
        await self.find(name)
        self.calls.append(("unpin", name))

    async def plan(
        self,
        names: Sequence[str],
        cards: tuple[Bytes, ...] | None = None,
        context: Tokens | None = None,
        slots: int | None = None,
    ) -> dict[str, object]:
        """What the real one makes of these models on a machine with a card of 2 GiB."""
        self.calls.append(("plan", tuple(names), cards, context, slots))
        variants = [(await self.find(name)).variant for name in names]
        question = plan.Question(tuple(v for v in variants if v is not None), cards, context, slots)
        return plan.document(State(devices=DEVICES), question)

    async def footprint(self, name: str) -> dict[str, object]:
        """What the real one makes of it on a machine with a card of 2 GiB where nothing was ever loaded."""
        variant = (await self.find(name)).variant
        assert variant is not None
        return foresight.document(State(devices=DEVICES), variant)

    async def yield_memory(self, size: Bytes, duration: Seconds) -> dict[str, object]:
        self.calls.append(("yield", size, duration))
        return {"device": "cuda:0", "bytes": size, "until": None, "freed": True, "free": 5 * GiB}

    async def _reload(self) -> None:
        if self.failing_reload is not None:
            raise self.failing_reload
        self.calls.append(("reload",))

    # --- to show

    def resident(self, name: str, **changes: object) -> ResidentStatus:
        status = ResidentStatus(
            name=name,
            variant=name,
            state="ready",
            pid=4711,
            gpu_layers=31,
            layers=31,
            placement="100% GPU",
            context=4096,
            slots=4,
            slots_busy=0,
            pinned=False,
            predicted={"cuda:0": GiB},
            measured={"cuda:0": 900 * MiB, "host": 100 * MiB},
            vram=900 * MiB,
            loaded_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
            last_used=datetime(2026, 1, 1, 12, 1, tzinfo=UTC),
            expires_at=datetime(2026, 1, 1, 12, 6, tzinfo=UTC),
            is_forever=False,
            load_s=0.25,
            tier="host",
            loaded_from="warm",
            is_prefetched=False,
            progress=1.0,
            requests=3,
            tokens=99,
        )
        return replace(status, **changes)  # type: ignore[arg-type]

    async def cached(self) -> Mapping[str, float]:
        return {"tiny": 1.0, "org/big:7b": 0.25}

    def residents(self) -> tuple[ResidentStatus, ...]:
        if self.loaded is not None:
            return tuple(self.resident(name, slots_busy=self.busy) for name in self.loaded)
        return (
            self.resident("tiny"),
            self.resident("org/big:7b", state="draining"),
            self.resident("gone", is_forever=True, expires_at=None),
        )

    def status(self) -> dict[str, object]:
        return {"version": "0", "models": []}

    async def measured_status(self) -> dict[str, object]:
        return self.status()

    def queue(self) -> dict[str, object]:
        return {"queue": []}

    async def decisions(self, name: str | None, request: str | None, limit: int) -> dict[str, object]:
        if name is not None:
            await self.find(name)
        self.calls.append(("decisions", name, request, limit))
        return {"decisions": []}

    @property
    def measures(self) -> Measures:
        return self.measured

    def canonical(self, name: str) -> str | None:
        return next((model.name for model in self.models() if name in (model.name, *model.entry.aliases)), None)

    @property
    def happenings(self) -> Happenings:
        return self.told

    def unhealthy(self) -> str | None:
        return self.complaint


@pytest.fixture
async def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
async def serve(gateway: ScriptedGateway) -> AsyncIterator[Serve]:
    """Starts the application over the scripted gateway; the guard's settings may be given."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(settings: GuardSettings | None = None) -> Client:
            server = TestServer(make_app(gateway, settings or GuardSettings()))
            return await stack.enter_async_context(TestClient(server))

        yield start


@pytest.fixture
async def client(serve: Serve) -> Client:
    """A client of the application with default settings."""
    return await serve()


async def lines_of(response: ClientResponse) -> list[str]:
    """The body's lines that are not empty."""
    return [line for line in (await response.text()).splitlines() if line]
