"""This machine: runs the agent in a subprocess with a clean threading environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import toolkit
from toolkit import isolated, limits, records
from toolkit.bench import environment
from toolkit.bench.devices import Device
from toolkit.bench.messages import BenchRequest, Failure, read_progress
from toolkit.errors import DeviceUnreachable, LibraryDied, plainly
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment

AGENT = (sys.executable, "-m", "toolkit.bench.agent")
THREAD_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")
"""Prefixes of variables that control the number or the affinity of a runtime's threads."""


class Local:
    """The machine that the command runs on."""

    is_this_machine = True

    def __init__(self, agent: Sequence[str] = AGENT) -> None:
        """agent: the command that starts the agent."""
        self._agent = agent

    def bench(self, request: BenchRequest, progress: Progress = silent) -> BenchReport:
        """Run the agent on this machine; this process sleeps meanwhile."""
        subjects = {
            name: replace(subject, folder=str(Path(subject.folder).resolve()))
            for name, subject in request.subjects.items()
        }
        request = replace(request, subjects=subjects, threads=request.threads or limits.cores())
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            code, step, log = _run(self._agent, request, output, progress)
            output.seek(0)
            response = output.read()
        if not response:
            raise LibraryDied(
                "\n".join(
                    [f"the benchmark process {isolated.exit_description(code)} while {step}", *isolated.last_lines(log)]
                ),
                isolated.exit_hint(code),
            )
        if code != 0:
            raise records.loads(Failure, response, "the agent's response").to_error()
        return records.loads(BenchReport, response, "the agent's response")

    def environment(self, libraries: Sequence[str]) -> Environment:
        return environment.capture(libraries)


def _run(agent: Sequence[str], request: BenchRequest, output: IO[str], progress: Progress) -> tuple[int, str, str]:
    """Run the agent and forward its progress; returns its exit code, its last step, and the end of its log."""
    step, log = "starting", deque[str](maxlen=isolated.SHOWN_LINES)
    try:
        process = subprocess.Popen(
            agent,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(request.threads or limits.cores()),
        )
    except OSError as error:
        raise DeviceUnreachable(f"cannot start the benchmark process: {plainly(error)}") from error
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with suppress(BrokenPipeError):  # an agent that crashes before reading is detected by its empty output
                process.stdin.write(records.dumps(request))
                process.stdin.close()
            for line in process.stderr:
                update = read_progress(line)
                if update is None:
                    log.append(line)
                else:
                    progress(*update)
                    step = update[2]
            return process.wait(), step, "".join(log)
        except BaseException:  # also on an interrupt, the agent must not keep running
            process.kill()
            raise


def _environment(threads: int) -> dict[str, str]:
    """Environment without thread-control variables, with this checkout on PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(THREAD_VARIABLES)}
    checkout = str(Path(toolkit.__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (checkout, kept.get("PYTHONPATH")) if part)
    return {**kept, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


PLUGIN: Device = Local()
