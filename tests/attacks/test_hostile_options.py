"""What a hostile host can tell the enclave: the options file, and arguments and environment, which are not read.

docs/threat-model.md lists every byte of it. No document makes the program touch a file outside of the one folder, or
says what to accept; what is none starts nothing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attacks.hostile_host import Host, host_in
from tests.fakes.enclave_documents import HOSTILE, document
from tests.fakes.processes import DEADLINE, ROOT

from rkeyserver.cli import doctor, enclave, identity, serve
from rkeyserver.cli.command import Said
from rkeyserver.config import Config
from rkeyserver.enclave_options import COMMANDS, MAX_OPTIONS, REFUSED

PROGRAM: Final = ROOT / "tests" / "fakes" / "enclave_program.py"


# --- The options file


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Config]]:
    """The program with its two mounts in `tmp_path`, up to where a command begins; with which configurations."""
    begun: list[Config] = []

    def begin(config: Config, **_more: Any) -> Said:
        begun.append(config)
        return Said("")

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(enclave, "OPTIONS", tmp_path / "options.json")
    monkeypatch.setattr(enclave, "STATE", tmp_path / "state")
    for command in (doctor, identity, serve):
        monkeypatch.setattr(command, "run_with", begin)
    yield begun
    for config in begun:
        assert isinstance(config.keystore, Path)
        files = (config.keystore, config.audit_path, config.collateral_path, config.change, config.pccs_ca)
        for path in (*files, config.coordinator_ca, config.coordinator_cert, config.coordinator_key):
            assert path is None or path.is_relative_to(tmp_path / "state") or config == Config(platform="sgx")
        assert (config.policy, config.admins, config.socket, config.platform) == (None, None, None, "sgx")


def put(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def leading_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _path: None, "No such file"),
    "a folder": (Path.mkdir, "Is a directory"),
    "a FIFO that nobody writes to": (os.mkfifo, "no regular file"),
    "a device without end": (leading_to("/dev/zero"), "no regular file"),
    "a terminal": (leading_to("/dev/tty"), ""),
    "a loop of links": (leading_to("options.json"), "symbolic links"),
    "a link to nowhere": (leading_to("none"), "No such file"),
    "a terabyte": (sparse(2**40), "more than"),
    "a byte too many": (put(b" " * (MAX_OPTIONS + 1)), "more than"),
    "what the kernel makes up": (leading_to("/proc/self/environ"), "no JSON"),
    "its own memory": (leading_to("/proc/self/mem"), "cannot be read"),
    "the entropy of the host": (leading_to("/dev/urandom"), "no regular file"),
}


@pytest.mark.parametrize(("make", "says"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_of_options_starts_nothing(
    told: list[Config], tmp_path: Path, capfd: pytest.CaptureFixture[str], make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / "options.json")
    assert enclave.main() == 2
    err = capfd.readouterr().err
    assert err.startswith("rkeyserver: The options ")
    assert says in err
    assert err.count("\n") == 1
    assert told == []


@pytest.mark.parametrize("data", [data for data, _says in HOSTILE.values()], ids=HOSTILE)
def test_a_hostile_document_starts_nothing(
    told: list[Config], tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes
) -> None:
    (tmp_path / "options.json").write_bytes(data)
    assert enclave.main() == 2
    err = capfd.readouterr().err
    assert err.startswith("rkeyserver: ")
    assert err.count("\n") == 1
    assert told == []


def test_an_honest_document_begins_its_command(told: list[Config], tmp_path: Path) -> None:
    """Else the tests around this one would show nothing."""
    for data in (document(), document("doctor", json=True), b'{"command":"identity","options":{}}'):
        (tmp_path / "options.json").write_bytes(data)
        assert enclave.main() == 0
    state = tmp_path / "state"
    assert [config.keystore for config in told] == [state / "rkey.bin", state / "rkey.bin", Config().keystore]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda more: st.lists(more, max_size=4)
)
KNOWN: Final = {name for form in COMMANDS.values() for name in form.__struct_encode_fields__}
OPTION = st.sampled_from(sorted(KNOWN | set(REFUSED) | {"platform", "config"}))
DOCUMENTS = st.binary(max_size=300) | st.builds(
    lambda command, options: document(command, **options),
    st.sampled_from(["serve", "doctor", "identity"]) | st.text(),
    st.dictionaries(OPTION, JSON | st.sampled_from(["../x", "/etc/passwd", "a", ["a:1"]]), max_size=4),
)


# One folder serves all examples: each writes the file anew.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(DOCUMENTS)
def test_whatever_the_document_is_it_says_where_and_never_what_to_accept(
    told: list[Config], tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "options.json").write_bytes(data)
    before = len(told)
    assert enclave.main() == (0 if len(told) > before else 2)  # the fixture looks at what was begun


# --- Arguments and environment

VARIABLES: Final = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX"),
    *("OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_MODULES", "OPENSSL_ENGINES", "CTLOG_FILE"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "QLOGDIR", "NETRC", "HOME", "TMPDIR", "XDG_CONFIG_HOME"),
    *("LOCALDOMAIN", "HOSTALIASES", "RESOLV_HOST_CONF", "TZDIR", "GCONV_PATH", "LOCPATH", "NLSPATH"),
    *("COVERAGE_PROCESS_START", "PROMETHEUS_MULTIPROC_DIR", "CFFI_TMPDIR", "XDG_RUNTIME_DIR", "CREDENTIALS_DIRECTORY"),
)  # each names a file or a folder: here one that blocks whoever opens it
OTHERS: Final = {
    **dict.fromkeys(("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "UVICORN_HOST", "UVICORN_WORKERS", "UVICORN_APP"), "x"),
    **dict.fromkeys(("COLUMNS", "LINES", "UV_THREADPOOL_SIZE", "UV_USE_IO_URING", "MALLOC_ARENA_TEST"), "-1"),
    **dict.fromkeys(("LANG", "LC_ALL", "LANGUAGE", "TERM", "PYTHONIOENCODING"), "xx_XX.UTF-32"),
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONDEVMODE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "1",
    "PYTHONOPTIMIZE": "2",
    "PYTHONVERBOSE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONBREAKPOINT": "os.abort",
    "RUST_BACKTRACE": "full",
    "RUST_LOG": "trace",
    "TZ": "XXX+99",
    "HTTPX_LOG_LEVEL": "trace",
    "REQUEST_METHOD": "GET",
    "NO_PROXY": "*",
    "RES_OPTIONS": "attempts:9",
    "SOURCE_DATE_EPOCH": "0",
    "PYTHONDUMPREFS": "1",
}
PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host_in(tmp_path_factory.mktemp("host")) as made:
        yield made


def test_no_argument_and_no_variable_is_read(host: Host, tmp_path: Path) -> None:
    """Started with everything hostile at once, it does what it does started with nothing."""
    block = tmp_path / "block"
    os.mkfifo(block)
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        elsewhere = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        hostile = {
            **dict.fromkeys(VARIABLES, str(block)),
            **OTHERS,
            **dict.fromkeys(PROXIES, elsewhere),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        found = []
        for env in ({}, hostile):
            case = host.case("doctor", {"host": ["127.0.0.1:1"]}, host.with_its_record)
            command = [sys.executable, "-I", "-S", "-B", str(PROGRAM), sysconfig.get_path("purelib")]
            done = subprocess.run(
                [*command, str(ROOT / "src"), str(ROOT), host.machine.composition],
                cwd=case.folder,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE,
            )
            said = re.sub(r"it is \S+Z here", "", done.stdout.replace(str(case.folder), "CASE"))
            found.append((done.returncode, said, done.stderr))
        assert found[0] == found[1]
        assert "the record opens here now" in found[0][1]
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            proxy.accept()
        manager.settimeout(0)
        with pytest.raises(BlockingIOError):
            manager.recv(1)


def test_the_environment_is_fixed_before_a_library_sees_it(tmp_path: Path) -> None:
    """In C too: libraries that are no Python read it there."""
    code = f"""
import ctypes, json, os, sys
sys.path[:0] = [{str(ROOT / "src")!r}, {sysconfig.get_path("purelib")!r}]
from rkeyserver.cli import enclave
loaded = sorted({{name.partition('.')[0] for name in sys.modules}} - sys.stdlib_module_names - {{'__main__'}})
ours = sorted(name for name in sys.modules if name.startswith('rkeyserver'))
late = [name for name in ('ssl', '_ssl', '_hashlib', 'asyncio', 'tempfile', 'logging', 'locale') if name in sys.modules]
def run():
    get = ctypes.CDLL(None).getenv
    get.restype = ctypes.c_char_p
    in_c = [str(get(name)) for name in (b'HTTPS_PROXY', b'TZ', b'PATH', b'OPENSSL_CONF')]
    print(json.dumps([loaded, ours, late, dict(os.environ), in_c]))
enclave._run = lambda: (run(), __import__('rkeyserver.cli.command', fromlist=['x']).Said(''))[1]
sys.exit(enclave.main())
"""
    env = {
        "OPENSSL_CONF": "/etc/passwd",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "TZ": "x",
        "PATH": os.defpath,
        "BAD": "\udcff\udcfe",
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, "--policy", "x", "-c", "import os"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    conf = enclave.ENVIRONMENT["OPENSSL_CONF"]
    ours = ["rkeyserver", "rkeyserver.cli", "rkeyserver.cli.enclave"]
    assert json.loads(done.stdout) == [["rkeyserver"], ours, [], enclave.ENVIRONMENT, ["None"] * 3 + [f"b'{conf}'"]]
