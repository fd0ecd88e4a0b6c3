"""The long texts of `swapctl`'s help: what each command does beyond its one line.

Read by `arguments`.
"""

from __future__ import annotations

from typing import Final

DESCRIPTION: Final = "Talk to swapd, the daemon that shares one GPU among several models."

EPILOG: Final = """\
`swapctl COMMAND --help` tells more about a command.

for scripts:
  With --json, stdout carries one JSON document when the command succeeds and
  nothing when it fails; progress is not shown. Errors are plain text on stderr,
  with --json or without, and the exit status says which kind:
    0  done                       4  no such model
    1  the daemon refused         5  the model does not fit
    2  wrong usage              130  interrupted
    3  the daemon cannot be reached, or went away

environment:
  SWAPD_URL      where the daemon is, if --url does not say: http://HOST:PORT or
                 unix:/PATH (default: unix:$XDG_RUNTIME_DIR/swapd/swapd.sock)
  SWAPD_API_KEY  the key to show over TCP, where the daemon wants one

examples:
  swapctl run smollm2-135m "Why is the sky blue?"
  git diff | swapctl run smollm2-135m "Write a commit message for this change:"
  swapctl load smollm2-135m --keep-alive 1h
  swapctl ps --json | jq -r '.models[].name'"""

MODEL: Final = "a name that `swapctl ls` lists, or an alias of it"
DURATION: Final = (
    "how long the model stays loaded after its last answer: seconds, or like 30s, 5m, 1h30m; 0: leave at once; "
    "-1: stay for ever"
)

STATUS: Final = """

Of each device: OURS is what loaded models hold and FOREIGN what other programs
hold, both measured; LIMIT is the most that swapd may use of it, RESERVE what it
leaves free. --json prints the document of GET /swapd/status."""
PS: Final = """

SIZE is what the model holds on all devices, VRAM its part on GPUs. PROCESSOR
says where its layers are computed, SLOTS how many answers it is giving now and
how many it can give at a time, UNTIL when it leaves if nobody asks."""
LS: Final = """

Files that cannot be used are listed below the others, with the reason."""
SHOW: Final = """

Where it is or, if it is not loaded, where it would go now; the memory that it
is expected to need, and what was measured, beside what was predicted before
the first load."""
LOAD: Final = """

Idle models leave if it needs their room. Loading a model that is loaded
already only sets its keep-alive."""
UNLOAD: Final = """

The answers that it is giving are finished first, unless --force is given. New
requests load it again."""
PIN: Final = """

A pinned model neither expires nor leaves for another; `swapctl unload` still
unloads it. A pin that is to outlast the daemon belongs in its configuration."""
UNPIN: Final = """

It stays loaded until its keep-alive ends or another model needs the room."""
PLAN: Final = """

A dry run: nothing is loaded, nobody leaves. The models are placed beside each
other as if the GPUs held nothing else but pinned models and other programs;
where not all of them fit, each in its turn into what the ones before have left.
VRAM and HOST are predictions, marked ~ while they are estimates. With two or
more models also every set of them that fits wholly; * marks those to which no
other of the models could be added. --gpu asks for a machine with these empty
cards, of this one's host memory.

examples:
  swapctl plan qwen3.5:9b codestral:22b
  swapctl plan qwen3.5:27b --gpu 24GiB --context 32768
  swapctl plan qwen3.5:9b codestral:22b qwen3.5:27b --gpu 24GiB,24GiB"""
YIELD: Final = """

Idle models leave, or are placed smaller, until so much of the GPU with most
room is free; then those at work, once they have finished. Nothing is loaded
into it until the time is over. 0 takes it back. Without a GPU it is host
memory. It answers when so much is free, or after a minute with what is.

example:
  swapctl yield 8GiB --for 2h"""
QUEUE: Final = """

PLACE is how many are served before it: groups of requests for other models, or
requests of its own."""
EVENTS: Final = """

Of the last thousand events those still known. With --follow and --json one JSON
document a line."""
EXPLAIN: Final = """

Every way that was considered, with its price: the seconds of waiting that it
costs all requests together; > marks the one that was taken. At the end what
would have avoided it. Answers from a model that is ready need no decision.

examples:
  swapctl explain
  swapctl explain qwen3.5:9b
  swapctl explain req-0f3a"""
PULL: Final = """

The daemon fetches the file, or all parts of it, into the first of [catalog]
dirs (without one, $XDG_DATA_HOME/swapd/models), and checks it. Without QUANT it
takes Q4_K_M, else Q4_0, Q8_0 or F16. Interrupted, the next pull goes on from
there. HF_TOKEN and HF_ENDPOINT count where the daemon's environment has them.

example:
  swapctl pull bartowski/Qwen2.5-7B-Instruct-GGUF:Q4_K_M"""
TOP: Final = """

Of each device: # is what models hold, + what other programs hold, - what is
kept free. q quits. Without a terminal it prints one page; with --json one
document of the status and the last events."""
SERVICE: Final = """

install writes swapd.socket and swapd.service into ~/.config/systemd/user and
starts the socket: the first connection starts the daemon, and systemd restarts
it if it crashes. Settings of `systemctl --user edit` stay. uninstall stops both
and takes the files away. status tells how they are, and the log's last lines."""
DOCTOR: Final = """

Looks at llama.cpp, the GPU and its driver, memory, the configuration, models,
folders, the daemon and the service, with or without a daemon. + is as it should
be, . is worth knowing, ! is to be mended, with -> what to do. The exit status
is 0 whatever it finds; with --json, `healthy` says it."""
REPLAY: Final = """

A day that the daemon has recorded, lived again by the same scheduler on a
simulated machine, without a daemon. LOG is a replay file, or - for stdin;
without LOG it is the daemon's own: $XDG_STATE_HOME/swapd/replay.jsonl, and the
one before it. Of the policies cost and lru are swapd's own, as in [scheduler]
policy; fifo, resident-first and keep-alive-first are how others decide. A wait
is from a request's arrival to its slot; delay is all that an answer took more
than it would have taken alone; fairness is Jain's index over the models. What
nobody could beat is exact for a dozen requests, a lower bound for more.

--tune looks for max_wait, keep_alive and pins that would have served this day
better, and tells what to put into config.toml, or that nothing helps.

examples:
  swapctl replay
  swapctl replay --policy cost --policy lru --max-wait 10s
  swapctl replay monday.jsonl --policy all --gpu 24GiB
  swapctl replay --tune"""
RELOAD: Final = """

If the file has an error, the daemon names it and goes on as it was."""
CLIENTS: Final = """

NAME is aider, claude-code, codex, continue, llama.vim, ollama-python,
open-webui, openai-python or zed. The text for the file is written to stdout,
where it belongs to stderr. It names the address of --url if that is over TCP,
else http://127.0.0.1:11435, and the key in SWAPD_API_KEY.

examples:
  eval "$(swapctl clients claude-code --model qwen3.5:9b)" && claude
  swapctl clients codex > ~/.codex/config.toml"""
RUN: Final = """

With PROMPT, the answer is written to stdout as it comes. What is piped in
follows the prompt on a line of its own, or is the prompt if there is no other.
Without PROMPT on a terminal it is a chat that remembers; /? lists its commands.
Ctrl-C ends the answer, and the model is free for others at once.

examples:
  swapctl run smollm2-135m "Why is the sky blue?"
  swapctl run smollm2-135m Summarise this: < notes.txt
  swapctl run smollm2-135m --system "Answer in French." --temperature 0"""
