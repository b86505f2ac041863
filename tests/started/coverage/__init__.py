"""Coverage of a process that a test starts: Coverage's own tracer, without the rest of Coverage.

Coverage has a line in a .pth file of its own that imports `coverage` in every process where it is to measure, and calls
process_startup(). That import costs a third of what a start of this program costs, and the end as much again, for it
has all the reports and a database with it. tests.fakes.processes puts this folder before it. What is found is what
Coverage finds (tests/unit/test_measured.py), and goes into a file that tests.fakes.measured reads.
"""

from __future__ import annotations

import atexit
import marshal
import os
import signal
import sys
import threading
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from types import FrameType
from typing import Any, Final

TRACER: Final = "COVERAGE_TRACER"
FOLDER: Final = "COVERAGE_FOLDER"
SOURCE: Final = os.path.realpath(f"{__file__}/../../../../src/rkeyserver") + os.sep

_found: Final[dict[str, Any]] = {}
_looked_at: Final[dict[str, Any]] = {}


def _tracer_module() -> Any:
    loader = ExtensionFileLoader("coverage.tracer", os.environ[TRACER])
    module = module_from_spec(ModuleSpec(loader.name, loader, origin=loader.path))
    loader.exec_module(module)
    return module


def process_startup(*, slug: str) -> None:  # noqa: ARG001 - as Coverage's
    """Measure from now on, until the process ends by itself or by SIGTERM. Called again it does nothing."""
    if threading.gettrace() is not None:
        return  # a folder may be there twice, and its .pth be read twice
    module = _tracer_module()

    def judged(filename: str, _frame: FrameType) -> Any:
        one = module.CFileDisposition()
        one.original_filename = one.canonical_filename = one.source_filename = filename
        one.trace, one.reason = filename.startswith(SOURCE), ""
        one.file_tracer, one.has_dynamic_filename = None, False
        return one

    def begin() -> Any:
        tracer = module.CTracer()
        tracer.data, tracer.trace_arcs = _found, True
        tracer.should_trace, tracer.should_trace_cache = judged, _looked_at
        tracer.lock_data = tracer.unlock_data = lambda: None
        tracer.warn = tracer.check_include = lambda *_said, **_more: None
        # What is measured is one source, in one context, with no plug-in.
        tracer.concur_id_func = tracer.should_start_context = tracer.switch_context = tracer.disable_plugin = None
        tracer.file_tracers = {}
        return tracer.start()

    def begin_thread(frame: FrameType, event: str, arg: Any) -> Any:
        sys.settrace(None)
        return begin()(frame, event, arg)

    def terminated(number: int, _frame: FrameType | None) -> None:
        _write()
        signal.signal(number, former)
        os.kill(os.getpid(), number)

    atexit.register(_write)
    former = signal.signal(signal.SIGTERM, terminated)
    threading.settrace(begin_thread)
    begin()


def _write() -> None:
    sys.settrace(None)
    path = f"{os.environ[FOLDER]}/{os.getpid()}.{os.urandom(8).hex()}"
    try:
        # Whole, or under another name: it may be killed in the middle.
        with open(f"{path}.part", "xb") as file:  # noqa: PTH123 - what that would load, the process need not have
            file.write(marshal.dumps(_found))
        os.rename(f"{path}.part", path)  # noqa: PTH104 - as above
    except OSError:
        pass  # another user's process, or one whose file system is another
