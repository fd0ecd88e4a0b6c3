"""What Ollama's clients are told about models: tags, ps, show.

Used by `ollama.py`; reads values, asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from swapd.questions import Described
from swapd.runtime.status import ResidentStatus
from swapd.served import Model

_NEVER: Final = datetime(2318, 1, 1, tzinfo=UTC)
"""Far enough for Ollama's clients to say "Forever"."""

_THOUGHTS: Final = re.compile(r"enable_thinking|<think>|reasoning_content|\bthinking\b")
_LEAVING: Final = frozenset({"draining", "unloading"})


def tag_document(name: str, model: Model) -> dict[str, object]:
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(model),
        "size": model.size,
        "digest": model.digest,
        "details": _details(model),
    }


def leaves_at(resident: ResidentStatus, now: datetime) -> datetime:
    # Clients show a moment that has passed as "Stopping...".
    return now if resident.state in _LEAVING else resident.expires_at or _NEVER


def running_document(resident: ResidentStatus, model: Model | None, now: datetime) -> dict[str, object]:
    """`model` None: its file has left the catalog since it was loaded. Ollama's CLI prints 12 digits of a digest, and
    breaks where there are fewer."""
    return {
        "name": resident.name,
        "model": resident.name,
        "size": resident.size,
        "digest": model.digest if model is not None else "0" * 64,
        "details": _details(model) if model is not None else {},
        "expires_at": leaves_at(resident, now),
        "size_vram": resident.vram,
        "context_length": resident.context,
    }


def show_document(model: Model, described: Described) -> dict[str, object]:
    """For a model that can be used."""
    parameters = [f"{name} {value}" for name, value in _parameters(model)]
    return {
        "license": "",
        "modelfile": _modelfile(model, described.template, parameters),
        "parameters": "\n".join(parameters),
        "template": described.template,
        "system": model.entry.system,
        "details": _details(model),
        "messages": [],
        "model_info": _information(model, described),
        "capabilities": _capabilities(model, described),
        "modified_at": _modified(model),
    }


def _capabilities(model: Model, described: Described) -> list[str]:
    """What the file gives away. Tools are everybody's who writes: a template that knows none has them explained."""
    if model.variant is not None and model.variant.pooling:
        return ["embedding"] if model.variant.pooling != "rank" else []
    known = {
        "completion": True,
        "tools": True,
        "vision": model.sees,
        "insert": described.can_infill,
        "thinking": can_think(described.template),
    }
    return [name for name, has in known.items() if has]


def can_think(template: str) -> bool:
    """Whether a chat template knows of thoughts."""
    return _THOUGHTS.search(template) is not None


def _modelfile(model: Model, template: str, parameters: Sequence[str]) -> str:
    lines = [f"FROM {model.path}", f'TEMPLATE """{template}"""']
    if model.entry.system:
        lines.append(f'SYSTEM """{model.entry.system}"""')
    return "\n".join([*lines, *(f"PARAMETER {parameter}" for parameter in parameters)])


def _details(model: Model) -> dict[str, object]:
    variant = model.variant
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family] if model.family else [],
        "parameter_size": parameter_size(model.parameters),
        "quantization_level": model.quantization,
        **({"context_length": variant.context, "embedding_length": variant.shape.embedding} if variant else {}),
    }


def parameter_size(parameters: int) -> str:
    """`"134.5M"`, `"8.0B"`: as Ollama writes them."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters)


def _information(model: Model, described: Described) -> dict[str, object]:
    information: dict[str, object] = {
        "general.architecture": model.family,
        "general.parameter_count": model.parameters,
    }
    if model.variant is not None:
        if model.variant.projector is not None:
            information["general.projector"] = model.variant.projector.path
        shape = model.variant.shape
        information["general.architecture"] = shape.architecture
        information[f"{shape.architecture}.context_length"] = shape.trained_context
        information[f"{shape.architecture}.embedding_length"] = shape.embedding
        information[f"{shape.architecture}.block_count"] = shape.layers
        information[f"{shape.architecture}.attention.head_count"] = shape.heads
        information[f"{shape.architecture}.attention.head_count_kv"] = max(shape.kv_heads, default=0)
        information[f"{shape.architecture}.attention.key_length"] = shape.key_length
        information[f"{shape.architecture}.attention.value_length"] = shape.value_length
        information[f"{shape.architecture}.vocab_size"] = described.vocabulary
    return information


def _parameters(model: Model) -> list[tuple[str, object]]:
    sampling = model.entry.sampling
    said: list[tuple[str, object]] = [
        ("num_ctx", model.variant.context if model.variant is not None else None),
        ("num_predict", model.entry.max_tokens),
        ("temperature", sampling.temperature),
        ("top_k", sampling.top_k),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("repeat_penalty", sampling.repeat_penalty),
        ("repeat_last_n", sampling.repeat_last_n),
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
        ("seed", sampling.seed),
    ]
    stops: list[tuple[str, object]] = [("stop", f'"{stop}"') for stop in model.entry.stop]
    return [(name, value) for name, value in said if value is not None] + stops


def _modified(model: Model) -> datetime:
    return datetime.fromtimestamp(model.modified, UTC)
