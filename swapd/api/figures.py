"""What an answer cost, in the words that llama-server has for it and that the OpenAI dialect borrows.

Used by `openai.py` and `llamaserver_voice.py`.
"""

from __future__ import annotations

from swapd.generation import Chunk, Usage
from swapd.units import Seconds, Tokens


def timings(usage: Usage) -> dict[str, object]:
    drafts = {"draft_n": usage.drafted, "draft_n_accepted": usage.accepted} if usage.drafted else {}
    return {
        "cache_n": usage.cached,
        "prompt_n": usage.evaluated,
        "prompt_ms": usage.prompt_s * 1000,
        "prompt_per_token_ms": _each(usage.evaluated, usage.prompt_s),
        "prompt_per_second": _rate(usage.evaluated, usage.prompt_s),
        "predicted_n": usage.completion,
        "predicted_ms": usage.completion_s * 1000,
        "predicted_per_token_ms": _each(usage.completion, usage.completion_s),
        "predicted_per_second": _rate(usage.completion, usage.completion_s),
        **drafts,
    }


def so_far(chunk: Chunk) -> dict[str, object]:
    """What a piece of a stream tells of what it cost up to there, where that is asked for."""
    usage = chunk.usage
    if usage is None:
        return {}
    if chunk.read is None:
        return {"timings": timings(usage)}
    reading = {
        "total": usage.prompt,
        "cache": usage.cached,
        "processed": chunk.read,
        "time_ms": round(usage.prompt_s * 1000),
    }
    return {"prompt_progress": reading}


def _each(tokens: Tokens, seconds: Seconds) -> float:
    return seconds * 1000 / tokens if tokens else 0.0


def _rate(tokens: Tokens, seconds: Seconds) -> float:
    return tokens / seconds if seconds > 0 else 0.0
