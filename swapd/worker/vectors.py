"""Vectors and scores: many texts in one batch, of several requests in turn.

Used by `child` where the model was loaded to make vectors, in the place of `slots`. No socket, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swapd.errors import ContextLengthExceeded, InvalidRequest
from swapd.questions import Embed, Embedded, Rerank, Reranked, VectorQuestion
from swapd.units import Tokens
from swapd.wire import Answered, FromWorker
from swapd.worker.context import Context
from swapd.worker.llama import Model
from swapd.worker.parameters import VECTORS_AT_A_TIME
from swapd.worker.slots import DecodeError, failed


@dataclass(slots=True)
class _Job:
    """A request's texts, as the model reads them, and the vectors made so far."""

    request: str
    question: VectorQuestion
    texts: list[list[int]]
    width: int
    made: list[Any] = field(default_factory=list)
    given: int = 0
    """How many texts are in a batch or done."""


class Vectors:
    """All requests of one model that makes vectors."""

    def __init__(self, model: Model, context: Context, pooling: str) -> None:
        self._model, self._context, self._pooling = model, context, pooling
        self._width = 1 if pooling == "rank" else model.width
        self._jobs: deque[_Job] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs)

    @property
    def is_brisk(self) -> bool:
        """Its steps are long."""
        return False

    def admit(self, request: str, question: VectorQuestion) -> None:
        """Queue it. Raises InvalidRequest, ContextLengthExceeded."""
        texts = self._embeddable(question) if isinstance(question, Embed) else self._rankable(question)
        self._jobs.append(_Job(request, question, texts, self._width))

    def stop(self, request: str) -> list[FromWorker]:
        """Forget it; nothing is told of it."""
        self._jobs = deque(job for job in self._jobs if job.request != request)
        return []

    def step(self) -> list[FromWorker]:
        """Decode one batch; the requests that it completes. Raises DecodeError."""
        context = self._context
        context.clear()
        parts: list[_Job] = []
        stuck = 0
        while stuck < len(self._jobs) and len(parts) < VECTORS_AT_A_TIME:
            job = self._jobs[0]
            self._jobs.rotate(-1)  # a text of each in turn: a long list does not keep a short one waiting
            if job.given < len(job.texts) and context.filled + len(job.texts[job.given]) <= context.batch_size:
                context.add_whole(len(parts), job.texts[job.given])
                job.given += 1
                parts.append(job)
                stuck = 0
            else:
                stuck += 1
        if parts:
            status = context.decode()
            if status != 0:
                raise DecodeError(f"llama.cpp cannot make vectors of a batch of {len(parts)} texts: error {status}")
            for sequence, job in enumerate(parts):
                job.made.append(context.pooled(sequence, job.width))
            context.forget()
        return self._complete()

    def _complete(self) -> list[FromWorker]:
        done = [job for job in self._jobs if len(job.made) == len(job.texts)]
        self._jobs = deque(job for job in self._jobs if len(job.made) < len(job.texts))
        frames: list[FromWorker] = []
        for job in done:
            try:
                frames.append(Answered(job.request, _reply(job)))
            except Exception as error:  # one request's trouble is not the others'
                frames.append(failed(job.request, error))
        return frames

    def _embeddable(self, question: Embed) -> list[list[int]]:
        if self._pooling == "rank":
            raise InvalidRequest("cannot make vectors: this model ranks documents, see /rerank", "model")
        if question.dimensions is not None and question.dimensions > self._width:
            raise InvalidRequest(
                f"cannot give {question.dimensions} dimensions: this model's vectors have {self._width}", "dimensions"
            )
        return [self._text(given, question.truncates) for given in question.inputs]

    def _text(self, given: str | tuple[int, ...], truncates: bool) -> list[int]:
        vocabulary = self._model.vocabulary
        if isinstance(given, str):
            tokens = vocabulary.tokenize(given, add_special=True)
        else:
            tokens = vocabulary.checked(given, "input")
        if not tokens:
            raise InvalidRequest("cannot make a vector of an empty input", "input")
        return self._fitted(tokens, truncates)

    def _rankable(self, question: Rerank) -> list[list[int]]:
        if self._pooling != "rank":
            raise InvalidRequest(
                "cannot rerank: this model makes no scores of pairs; use one that was made for it (pooling rank)",
                "model",
            )
        return [self._fitted(self._pair(question.query, text), question.truncates) for text in question.documents]

    def _pair(self, query: str, document: str) -> list[int]:
        """Query and document as one text, in the file's own form or in that of BERT."""
        vocabulary = self._model.vocabulary
        template = self._model.pair_template
        if template is not None:
            before, _, after = template.partition("{document}")
            filled = before.replace("{query}", query) + document + after.replace("{query}", query)
            return vocabulary.tokenize(filled, add_special=False)
        start = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos is not None else []
        last = vocabulary.separator if vocabulary.eos is None else vocabulary.eos
        end = [last] if vocabulary.adds_eos and last is not None else []
        between = [vocabulary.separator] if vocabulary.adds_separator and vocabulary.separator is not None else []

        def said(text: str) -> list[int]:
            return vocabulary.tokenize(text, add_special=False, parse_special=False)

        return [*start, *said(query), *end, *between, *said(document), *end]

    def _fitted(self, tokens: list[int], truncates: bool) -> list[int]:
        """Within the context; where that is asked, cut before the mark that ends it."""
        room = self._context.length
        if len(tokens) <= room:
            return tokens
        if not truncates:
            raise ContextLengthExceeded(len(tokens), room)
        vocabulary = self._model.vocabulary
        is_marked = tokens[-1] in (vocabulary.eos, vocabulary.separator)
        return tokens[: room - 1] + tokens[-1:] if is_marked else tokens[:room]


def _reply(job: _Job) -> Embedded | Reranked:
    if any(vector is None or not np.isfinite(vector).all() for vector in job.made):
        raise InvalidRequest("cannot make a vector of this input: the model's numbers are not finite", "input")
    counts: list[Tokens] = [len(text) for text in job.texts]
    match job.question:
        case Embed(dimensions=dimensions, is_normalised=is_normalised):
            vectors = [vector[:dimensions] for vector in job.made]
            if is_normalised:
                vectors = [vector / (float(np.linalg.norm(vector)) or 1.0) for vector in vectors]
            return Embedded(tuple(vector.astype("<f4").tobytes() for vector in vectors), tuple(counts))
        case Rerank():
            return Reranked(tuple(float(vector[0]) for vector in job.made), sum(counts))
