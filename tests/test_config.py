"""What the owner may write, where it is found, and what is said about what is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapd import __version__
from swapd.config import Settings, load
from swapd.config.sources import NOT_SETTINGS
from swapd.config.tables import Options, kinds
from swapd.config.values import with_base_folders
from swapd.core.messages import Overflow, Policy, Ranking
from swapd.errors import InvalidConfig
from swapd.generation import Sampling
from swapd.host.listen import TcpAddress, UnixAddress
from swapd.host.stores import places
from swapd.served import ModelEntry, Preset
from swapd.units import FOREVER, GiB, MiB

DOCUMENTED = Path(__file__).parents[1] / "config.toml"
ENVIRON = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/1"}

Load = Callable[..., Settings]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """`loaded(text, VARIABLE=...)`: the settings of a file with this text."""

    def load_text(text: str = "", **environ: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return load(file, {**ENVIRON, **environ})

    return load_text


@pytest.fixture
def problems(loaded: Load, tmp_path: Path) -> Callable[..., list[str]]:
    """What is said about a file with this text, without its folder."""

    def tell(text: str = "", **environ: str) -> list[str]:
        with pytest.raises(InvalidConfig) as caught:
            loaded(text, **environ)
        return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return tell


# --- what holds when nothing is said


def test_without_a_file_the_contract_holds(tmp_path: Path) -> None:
    settings = load(None, {**ENVIRON, "XDG_CONFIG_HOME": str(tmp_path)})
    assert settings == Settings(
        policy=Policy(keeps_prompts=True),
        listen=(UnixAddress(Path("/run/user/1/swapd/swapd.sock")), TcpAddress("127.0.0.1", 11435)),
        api_keys=(),
        allowed_hosts=(),
        allowed_origins=(),
        max_body=32 * MiB,
        threads=settings.threads,
        flash_attention=None,
        catalog_dirs=(),
        stores=places(("huggingface", "ollama", "lmstudio", "llama.cpp"), with_base_folders(ENVIRON)),
        entries={},
        routes={},
        models_dir=Path("/home/ann/.local/share/swapd/models"),
        allow_pull=False,
        state_dir=Path("/home/ann/.local/state/swapd"),
        cache_dir=Path("/home/ann/.cache/swapd/prompts"),
        prompt_cache=2 * GiB,
        source=None,
    )
    assert settings.policy == Policy(
        keep_alive=300.0,
        max_queue=512,
        max_loaded=0,
        max_wait=30.0,
        min_residency=2.0,
        load_timeout=300.0,
        vram_reserve=512 * MiB,
        vram_limit="100%",
        host_reserve=2 * GiB,
        keeps_prompts=True,
        prefetch=True,
        warm_cache=None,
    )
    assert 1 <= settings.threads <= (os.cpu_count() or 1)


def test_settings_are_values(loaded: Load) -> None:
    text = '[models.a]\nslots = 2\n[routes]\nchat = "a"'
    assert loaded(text) == loaded(text)
    assert hash(loaded(text)) == hash(loaded(text))
    assert loaded(text) != loaded(text.replace("2", "3"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded().max_body = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded().routes["chat"] = "b"  # type: ignore[index]


def test_everything_can_be_said(loaded: Load, tmp_path: Path) -> None:
    settings = loaded(
        """
        [server]
        listen = ["unix:/run/s.sock", "0.0.0.0:11434", "[::1]:80"]
        api_keys = ["k-1"]
        allowed_hosts = ["Gpu.Example.org", "[fe80::1]", "10.0.0.1"]
        allowed_origins = ["https://Chat.example.org/", "http://localhost:3000"]
        allow_pull = false
        max_body = "1MiB"
        max_queue = 4
        [memory]
        vram_reserve = 0
        vram_limit = "85%"
        host_reserve = "1GiB"
        warm_cache = "3GiB"
        [engine]
        threads = 3
        flash_attention = true
        [scheduler]
        keep_alive = -1
        policy = "lru"
        overflow = "evict"
        max_loaded = 2
        max_wait = "1m"
        min_residency = 0
        prefetch = false
        load_timeout = "-1"
        [catalog]
        dirs = ["~/gguf", "beside", "$MODELS/x", "/abs/../models"]
        sources = []
        [paths]
        state = "state"
        cache = "/var/cache/swapd"
        [models."qwen3.5:9b"]
        path = "qwen.gguf"
        aliases = ["chat"]
        context = 16
        slots = 256
        keep_alive = "30m"
        pin = true
        preload = true
        priority = -3
        gpu_layers = 0
        kv_type = "q8_0"
        [models."qwen3.5:9b".options]
        temperature = 0
        top_k = 40
        top_p = 0.9
        min_p = 0.05
        repeat_penalty = 1.1
        repeat_last_n = -1
        presence_penalty = -1.5
        frequency_penalty = 0.5
        seed = 7
        num_predict = 100
        stop = "###"
        [routes]
        autocomplete = "chat"
        """,
        MODELS="/m",
    )
    assert settings.listen == (
        UnixAddress(Path("/run/s.sock")),
        TcpAddress("0.0.0.0", 11434),
        TcpAddress("::1", 80),
    )
    assert settings.api_keys == ("k-1",)
    assert settings.allowed_hosts == ("gpu.example.org", "fe80::1", "10.0.0.1")
    assert settings.allowed_origins == ("https://chat.example.org", "http://localhost:3000")
    assert (settings.max_body, settings.threads, settings.flash_attention) == (MiB, 3, True)
    assert settings.policy == Policy(
        keep_alive=FOREVER,
        max_queue=4,
        max_loaded=2,
        max_wait=60.0,
        min_residency=0.0,
        load_timeout=FOREVER,
        vram_reserve=0,
        vram_limit="85%",
        host_reserve=GiB,
        keeps_prompts=True,
        overflow=Overflow.EVICT,
        ranking=Ranking.LRU,
        prefetch=False,
        warm_cache=3 * GiB,
    )
    assert settings.catalog_dirs == (Path("/home/ann/gguf"), tmp_path / "beside", Path("/m/x"), Path("/models"))
    assert (settings.state_dir, settings.cache_dir) == (tmp_path / "state", Path("/var/cache/swapd"))
    assert settings.routes == {"autocomplete": ("chat",)}
    assert settings.entries == {
        "qwen3.5:9b": ModelEntry(
            path=str(tmp_path / "qwen.gguf"),
            aliases=("chat",),
            context=16,
            slots=256,
            keep_alive=1800.0,
            pin=True,
            preload=True,
            priority=-3,
            gpu_layers=0,
            kv_type="q8_0",
            sampling=Sampling(0.0, 40, 0.9, 0.05, 1.1, -1, -1.5, 0.5, 7),
            max_tokens=100,
            stop=("###",),
        )
    }


def test_negative_seeds_and_limits_mean_none_as_in_ollama(loaded: Load) -> None:
    entry = loaded("[models.a]\noptions = { seed = -1, max_tokens = -1 }").entries["a"]
    assert (entry.sampling.seed, entry.max_tokens) == (None, None)


# --- the documented file


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE)


def test_the_documented_file_says_nothing_as_it_stands(tmp_path: Path) -> None:
    environ = {**ENVIRON, "XDG_CONFIG_HOME": str(tmp_path)}
    assert load(DOCUMENTED, environ) == load(None, environ)


def test_the_documented_file_shows_the_defaults(loaded: Load) -> None:
    """Only what has no default, or is an example, differs."""
    text = uncommented(DOCUMENTED.read_text()).replace("api_key_file =", "# api_key_file =")
    shown = loaded(text)
    assert dataclasses.replace(shown, entries={}, routes={}) == dataclasses.replace(loaded(), entries={}, routes={})
    (entry,) = shown.entries.values()
    defaults = ModelEntry()
    for name in ("pin", "preload", "priority", "gpu_layers", "kv_type"):
        assert getattr(entry, name) == getattr(defaults, name)
    assert (entry.context, entry.slots) == (8192, 4)


def test_the_documented_file_has_every_key_in_its_table() -> None:
    documented: dict[str, list[str]] = {}
    table: list[str] = []
    for line in uncommented(DOCUMENTED.read_text()).splitlines():
        if match := re.match(r"\[(\w+)", line):
            table = documented.setdefault(match[1], [])
        elif match := re.match(r"(\w+) =", line):
            table.append(match[1])
    tables = kinds()
    tables["routes"] = dict.fromkeys(documented["routes"], object)
    assert {table: sorted(keys) for table, keys in documented.items()} == {
        table: sorted(keys) for table, keys in tables.items()
    }
    assert not [key for key in Options.model_fields if key not in DOCUMENTED.read_text()]


# --- where the file is


def test_an_argument_comes_before_the_variable_and_that_before_the_usual_place(tmp_path: Path) -> None:
    for name in ("argument.toml", "variable.toml", "swapd/config.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    environ = {**ENVIRON, "XDG_CONFIG_HOME": str(tmp_path)}
    assert load(None, environ).source == tmp_path / "swapd/config.toml"
    environ["SWAPD_CONFIG"] = str(tmp_path / "variable.toml")
    assert load(None, environ).source == tmp_path / "variable.toml"
    assert load(tmp_path / "argument.toml", environ).source == tmp_path / "argument.toml"


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone.toml"
    with pytest.raises(InvalidConfig, match="cannot read it: No such file"):
        load(gone, ENVIRON)
    with pytest.raises(InvalidConfig, match="cannot read it: No such file"):
        load(None, {**ENVIRON, "SWAPD_CONFIG": str(gone)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[server]\n= 3", ":2: not TOML"),
        (b"[server", "not TOML"),
        (b"a = 1\na = 2\n", ":2: not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a = " + b"[" * 100_000, ""),
    ],
)
def test_a_file_that_is_no_toml_says_where(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidConfig, match=f"^{re.escape(str(file))}.*{words}"):
        load(file, ENVIRON)


# --- the environment


def test_a_variable_comes_before_the_file(loaded: Load) -> None:
    variables = {
        "SWAPD_SERVER__MAX_QUEUE": "2",
        "SWAPD_SERVER__LISTEN": "127.0.0.1:1, 127.0.0.1:2",
        "SWAPD_SERVER__API_KEYS": "12345",
        "SWAPD_SERVER__ALLOWED_HOSTS": '["a", "b"]',
        "SWAPD_MEMORY__VRAM_LIMIT": "85%",
        "SWAPD_SCHEDULER__KEEP_ALIVE": "30m",
        "SWAPD_ENGINE__FLASH_ATTENTION": "false",
        "SWAPD_CATALOG__DIRS": "/a,/b",
        "SWAPD_PATHS__STATE": "/1",
        "SWAPD_ROUTES__CODE": "Qwen:9b",
        "SWAPD_MODELS__QWEN:9B__SLOTS": "3",
        "SWAPD_MODELS__new__OPTIONS": "{ top_k = 5 }",
    }
    settings = loaded('[server]\nmax_queue = 1\n[models."Qwen:9b"]\nslots = 1\n', **variables)
    assert settings.policy.max_queue == 2
    assert settings.listen == (TcpAddress("127.0.0.1", 1), TcpAddress("127.0.0.1", 2))
    assert settings.api_keys == ("12345",)
    assert settings.allowed_hosts == ("a", "b")
    assert (settings.policy.vram_limit, settings.policy.keep_alive) == ("85%", 1800.0)
    assert settings.flash_attention is False
    assert settings.catalog_dirs == (Path("/a"), Path("/b"))
    assert settings.state_dir == Path("/1")
    assert settings.routes == {"code": ("Qwen:9b",)}
    assert settings.entries["Qwen:9b"].slots == 3
    assert settings.entries["new"].sampling.top_k == 5


@pytest.mark.parametrize(
    "variable",
    [
        "SWAPD_FOO",
        "SWAPD_SERVER",
        "SWAPD_SERVER__",
        "SWAPD_SERVER__MAXQUEUE",
        "SWAPD_NOWHERE__KEY",
        "SWAPD_ROUTES__",
        "SWAPD_MODELS__SLOTS",
        "SWAPD_server__max_queue",
    ],
)
def test_an_unknown_variable_is_refused_by_name(variable: str, problems: Callable[..., list[str]]) -> None:
    (problem,) = problems("", **{variable: "1"})
    assert problem.startswith(f"{variable}: no such setting")


def test_a_misspelt_variable_gets_a_hint(problems: Callable[..., list[str]]) -> None:
    assert "did you mean SWAPD_SERVER__MAX_QUEUE?" in problems("", SWAPD_SERVER__MAXQUEUE="1")[0]


def test_variables_for_other_things_are_no_settings(loaded: Load) -> None:
    assert loaded("", **dict.fromkeys(NOT_SETTINGS, "x")) == loaded("")


def test_a_wrong_variable_is_named(problems: Callable[..., list[str]]) -> None:
    assert problems("[server]\nmax_queue = 1", SWAPD_SERVER__MAX_QUEUE="many") == [
        'SWAPD_SERVER__MAX_QUEUE: [server] max_queue = "many": a whole number'
    ]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_in_a_variable_is_a_setting_or_a_problem(text: str) -> None:
    environ = {**ENVIRON, "XDG_CONFIG_HOME": "/nowhere"}
    for variable in ("SWAPD_SCHEDULER__KEEP_ALIVE", "SWAPD_CATALOG__DIRS", "SWAPD_MODELS__M__OPTIONS"):
        try:
            load(None, {**environ, variable: text})
        except InvalidConfig as error:
            assert variable in error.problems[0]  # noqa: PT017


# --- what is refused


def test_every_problem_is_told_at_once_with_its_line(problems: Callable[..., list[str]]) -> None:
    text = """
[server]
max_queu = 4
listen = ["nope"]

[scheduler]
keep_alive = "5x"

[models."a:9b"]
context = 8
options = { top_q = 3 }

[scheduller]
"""
    assert set(problems(text)) == {
        "config.toml:3: [server] max_queu = 4: no such key; did you mean max_queue?",
        'config.toml:4: [server] listen[0] = "nope": no address; write HOST:PORT, [IPV6]:PORT or unix:PATH',
        'config.toml:7: [scheduler] keep_alive = "5x": not a duration; write it like 30s, 5m, 1h30m, 0 or -1',
        'config.toml:10: [models."a:9b"] context = 8: 16 or more',
        'config.toml:11: [models."a:9b"] options.top_q = 3: no such key; did you mean top_p?',
        "config.toml:13: [scheduller]: no such table; did you mean scheduler?",
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("server = 3", "[server]"),
        ("models = []", "[models]"),
        ('models."a" = 3', '[models."a"]'),
        ('[models." "]', "[models"),
        ("[server]\nlisten = []", "[server] listen"),
        ('[server]\nlisten = "127.0.0.1:1"', "[server] listen"),
        ("[server]\nlisten = [1]", "[server] listen[0]"),
        ('[server]\nlisten = ["127.0.0.1:99999"]', "[server] listen[0]"),
        ('[server]\nallowed_hosts = ["http://a"]', "[server] allowed_hosts[0]"),
        ('[server]\nallowed_hosts = [""]', "[server] allowed_hosts[0]"),
        *(
            (f'[server]\nallowed_origins = ["{origin}"]', "[server] allowed_origins[0]")
            for origin in ("*", "null", "localhost", "http://", "http://a/b", "http://*.a", "http://u@a", "http://a:x")
        ),
        ("[server]\nmax_body = 1.5", "[server] max_body"),
        ("[server]\nmax_queue = 0", "[server] max_queue"),
        ("[server]\nmax_queue = true", "[server] max_queue"),
        ("[server]\nmax_queue = 1.0", "[server] max_queue"),
        ('[memory]\nvram_limit = "120%"', "[memory] vram_limit"),
        ("[memory]\nvram_limit = 0.5", "[memory] vram_limit"),
        ("[memory]\nhost_reserve = -1", "[memory] host_reserve"),
        (f'[memory]\nhost_reserve = "{"9" * 400}GiB"', "[memory] host_reserve"),
        ("[engine]\nthreads = 0", "[engine] threads"),
        ("[engine]\nthreads = true", "[engine] threads"),
        ("[engine]\nflash_attention = 1", "[engine] flash_attention"),
        ("[scheduler]\nkeep_alive = [1]", "[scheduler] keep_alive"),
        ("[scheduler]\nkeep_alive = nan", "[scheduler] keep_alive"),
        ("[scheduler]\nmin_residency = -1", "[scheduler] min_residency"),
        ("[scheduler]\nload_timeout = 0", "[scheduler] load_timeout"),
        ("[scheduler]\nmax_loaded = -1", "[scheduler] max_loaded"),
        ('[scheduler]\npolicy = "fifo"', "[scheduler] policy"),
        ('[catalog]\ndirs = "/a"', "[catalog] dirs"),
        ('[catalog]\ndirs = ["$NOWHERE/a"]', "[catalog] dirs[0]"),
        ('[catalog]\ndirs = ["a$"]', "[catalog] dirs[0]"),
        ('[paths]\nstate = ""', "[paths] state"),
        ('[paths]\nstate = "a\\u0000b"', "[paths] state"),
        ("[models.a]\nslots = 0", '[models."a"] slots'),
        ("[models.a]\nslots = 257", '[models."a"] slots'),
        ("[models.a]\npriority = 1.5", '[models."a"] priority'),
        ("[models.a]\ngpu_layers = -1", '[models."a"] gpu_layers'),
        ('[models.a]\nkv_type = "q2"', '[models."a"] kv_type'),
        ('[models.a]\npin = "yes"', '[models."a"] pin'),
        ('[models.a]\naliases = ["a\\nb"]', '[models."a"] aliases[0]'),
        ("[models.a.options]\ntemperature = -1", '[models."a"] options.temperature'),
        ("[models.a.options]\ntemperature = inf", '[models."a"] options.temperature'),
        ("[models.a.options]\ntop_p = 1.1", '[models."a"] options.top_p'),
        ("[models.a.options]\nrepeat_penalty = 0", '[models."a"] options.repeat_penalty'),
        ("[models.a.options]\nseed = 4294967296", '[models."a"] options.seed'),
        ('[models.a.options]\nstop = [""]', '[models."a"] options.stop'),
        ("[models.a.options]\nmax_tokens = 1\nnum_predict = 1", '[models."a"] options.num_predict'),
        ("[models.a.presets.x]\nmax_tokens = 1\nnum_predict = 1", '[models."a"] presets.x.num_predict'),
        ("[models.a.presets.x]\ntop_p = 2", '[models."a"] presets.x.top_p'),
        ("[models.a.presets.x]\ntop_q = 2", '[models."a"] presets.x.top_q = 2: no such key; did you mean top_p?'),
        ('[models.a.presets."x:y"]\ntop_p = 1', '[models."a"] presets.x:y'),
        ("[models.a.presets.latest]\ntop_p = 1", '[models."a"] presets.latest'),
        ("[models.a]\nsystem = 3", '[models."a"] system'),
        ('[models.a]\ntemplate = "absent.jinja"', '[models."a"] template'),
        ("[routes]\nchat = 3", "[routes] chat"),
    ],
)
def test_what_is_impossible_is_refused_by_key(text: str, key: str, problems: Callable[..., list[str]]) -> None:
    (problem,) = problems(text)
    assert re.match(r"config\.toml:\d: " + re.escape(key), problem), problem


def test_a_model_has_a_prompt_a_template_and_presets(loaded: Load, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    entry = loaded(
        """
        [models.a]
        system = "Be kind."
        template = "own.jinja"
        [models.a.presets.precise]
        temperature = 0.1
        stop = "END"
        [models.a.presets.pirate]
        system = "Arr."
        num_predict = 9
        """
    ).entries["a"]
    assert (entry.system, entry.template) == ("Be kind.", "{{ messages }}")
    assert entry.presets == (
        ("precise", Preset(Sampling(temperature=0.1), stop=("END",))),
        ("pirate", Preset(system="Arr.", max_tokens=9)),
    )


def test_small_kv_types_need_flash_attention(problems: Callable[..., list[str]], loaded: Load) -> None:
    text = '[models.a]\nkv_type = "q4_0"\n[engine]\nflash_attention = '
    assert 'only "f16" while' in problems(text + "false")[0]
    assert loaded(text + '"auto"').entries["a"].kv_type == "q4_0"


def test_servers_of_a_later_release_are_told_from_mistakes(problems: Callable[..., list[str]], loaded: Load) -> None:
    loaded("[memory]\nrpc = []")
    (problem,) = problems('[memory]\nrpc = ["host:50052"]')
    assert f'[memory] rpc = ["host:50052"]: not in swapd {__version__} yet; only [] is allowed' in problem


def test_lines_are_found_however_a_key_is_written(problems: Callable[..., list[str]]) -> None:
    text = 'server.max_queue = 0\n[ "scheduler" ]\n"max_loaded"=-1 # [x]\n[models.\'a b\']\n  options.top_k = -1\n'
    assert [problem.partition(" ")[0] for problem in problems(text)] == [
        "config.toml:1:",
        "config.toml:3:",
        "config.toml:5:",
    ]


# --- keys


def test_keys_are_never_shown(problems: Callable[..., list[str]], loaded: Load) -> None:
    assert "secret" not in "\n".join(problems('[server]\napi_keys = ["my secret"]'))
    assert "secret" not in "\n".join(problems('[server]\napi_keys = "my secret"'))
    assert "secret" not in repr(loaded('[server]\napi_keys = ["secret"]'))


def test_keys_may_stand_in_a_file_of_their_own(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    file.chmod(0o600)
    assert loaded('[server]\napi_key_file = "keys"\napi_keys = ["zero"]').api_keys == ("zero", "one", "two")


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"one", 0o640, "chmod 600"),
        (b"one", 0o604, "chmod 600"),
        (b"a secret", 0o600, "visible ASCII"),
        (b"\xff", 0o600, "ASCII"),
        (b"", 0o600, "at least one key"),
        (None, 0, "No such file"),
    ],
)
def test_a_bad_key_file_is_refused(
    content: bytes | None, mode: int, words: str, problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
        (tmp_path / "keys").chmod(mode)
    (problem,) = problems('[server]\napi_key_file = "keys"')
    assert words in problem
    assert "secret" not in problem


def test_a_route_may_name_several_models(loaded: Load) -> None:
    settings = loaded('[routes]\ncode = ["big", "small"]\nchat = "small"')
    assert settings.routes == {"code": ("big", "small"), "chat": ("small",)}


@pytest.mark.parametrize("given", ["[]", "3", '["a", 3]', '[""]'])
def test_a_route_that_names_no_model_is_refused(loaded: Load, given: str) -> None:
    with pytest.raises(InvalidConfig, match="routes"):
        loaded(f"[routes]\ncode = {given}")
