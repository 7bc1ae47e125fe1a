"""This machine. The agent runs in a process of its own, whose threads nothing but the request decides."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import deque
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
"""What these start with would change the number or the place of a runtime's threads."""


class Local:
    """See the module."""

    is_this_machine = True

    def bench(self, request: BenchRequest, report: Progress = silent) -> BenchReport:
        """Run the agent on this machine and wait for it; this process sleeps meanwhile."""
        subjects = {
            name: replace(subject, folder=str(Path(subject.folder).resolve()))
            for name, subject in request.subjects.items()
        }
        threads = request.threads or limits.cores()
        request = replace(request, subjects=subjects, threads=threads)
        with tempfile.TemporaryFile("w+", encoding="utf-8") as answers:
            code, doing, noise = _run(records.dumps(request), answers, threads, report)
            answers.seek(0)
            answer = answers.read()
        if not answer:
            raise LibraryDied(
                "\n".join(
                    [
                        f"the measuring process {isolated.exit_description(code)} while {doing}",
                        *isolated.last_lines(noise),
                    ]
                ),
                isolated.exit_hint(code),
            )
        if code != 0:
            raise records.loads(Failure, answer, "the agent's answer").restored()
        return records.loads(BenchReport, answer, "the agent's answer")

    def environment(self) -> Environment:
        return environment.capture()


def _run(request: str, answers: IO[str], threads: int, report: Progress) -> tuple[int, str, str]:
    """Start the agent and pass its progress on; returns its exit code, last step, and other last lines of stderr."""
    doing, noise = "starting", deque[str](maxlen=isolated.SHOWN_LINES)
    try:
        process = subprocess.Popen(
            AGENT, stdin=subprocess.PIPE, stdout=answers, stderr=subprocess.PIPE, text=True, env=_variables(threads)
        )
    except OSError as error:
        raise DeviceUnreachable(f"the measuring process could not be started: {plainly(error)}") from error
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with suppress(BrokenPipeError):  # an agent that died before reading is reported by its empty answer
                process.stdin.write(request)
                process.stdin.close()
            for line in process.stderr:
                step = read_progress(line)
                if step is None:
                    noise.append(line)
                else:
                    report(*step)
                    doing = step[2]
            return process.wait(), doing, "".join(noise)
        except BaseException:  # an interrupt too must not leave the agent running
            process.kill()
            raise


def _variables(threads: int) -> dict[str, str]:
    """This process's environment variables, but for those that steer threads, and with this very toolkit in reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(THREAD_VARIABLES)}
    here = str(Path(toolkit.__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (here, kept.get("PYTHONPATH")) if part)
    return {**kept, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


PLUGIN: Device = Local()
