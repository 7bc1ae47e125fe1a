"""Measures cost tables and whole models for a latency budget (`toolkit.prune.verified_search.LatencyMeter`)."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import toolkit
from toolkit import hashing, plugins, records
from toolkit.bench.deployment import Deployment
from toolkit.bench.probes import probe_model, with_chains
from toolkit.bench.statistics import percentiles
from toolkit.bench.subjects import Opened, request_of
from toolkit.dg.digits import cache_folder
from toolkit.errors import RecordError
from toolkit.export import artifact
from toolkit.export.calibrate import DomainSample, Sample
from toolkit.export.settings import PAD_TOKENS
from toolkit.models.model import Model
from toolkit.models.shapes import width_of
from toolkit.progress import Progress, silent
from toolkit.prune.cost_table import shape_of
from toolkit.prune.grid import Grid, key_of
from toolkit.prune.measured_table import MeasuredTable
from toolkit.prune.verified_search import WholeModels
from toolkit.records import DENSE, BenchReport, LatencyTable, Matching, Probe, ProbeSession

LOG = logging.getLogger(__name__)
FOLDER = "cost_tables"
"""Folder of the cache."""
PROBES_AT_ONCE = 16
"""Number of probes that are open in one process."""
SECONDS, SAMPLES = 4.0, 15
"""Duration and samples of a session of probes, both at least."""
SAMPLE_IMAGES = 32


class Meter:
    """Exports and measures on the device of a deployment. A context manager, which deletes what it exported."""

    def __init__(self, deployment: Deployment, cache: Path | None, progress: Progress = silent) -> None:
        """cache: folder of tables measured before, by fingerprint; None: they are not kept."""
        self.device, self.runtime = deployment.bench.device, deployment.runtime
        self.precision: str = deployment.export.precision
        self.batch_size = deployment.batch_size
        self.tables: dict[str, LatencyTable] = {}
        """Records of the tables that were asked for, by fingerprint."""
        self._deployment, self._cache, self._progress = deployment, cache, progress
        self._scratch = tempfile.TemporaryDirectory(prefix="toolkit-latency-")
        self._exported: dict[str, Path] = {}

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *error: object) -> None:
        self._scratch.cleanup()

    def table(self, dense: Model, grid: Grid) -> MeasuredTable:
        """The cost table of a dense model's blocks; points that the cache holds are not measured again.

        Sessions are kept one by one, so that an interrupted measurement is resumed. INVALID ones are used, with a
        warning, but not kept.
        """
        record = self._cached(dense, grid.matching)
        sessions = [with_chains(probes, dense) for probes in missing(grid, record.sessions)]
        for number, probes in enumerate(sessions):
            session = self._measured(probes, dense, grid.matching, f"{number + 1} of {len(sessions)}")
            record = replace(record, sessions=(*record.sessions, session))
            if session.reasons:
                LOG.warning("the cost table's measurement is INVALID: %s", ", ".join(session.reasons))
            self._keep(record)
        self.tables[record.fingerprint] = record
        return MeasuredTable(record, grid)

    def measure(self, dense: Model, models: Sequence[Model]) -> WholeModels:
        """Export the dense model and others, and measure them interleaved."""
        names = [DENSE, *(f"model {number}" for number in range(1, len(models) + 1))]
        folders = {name: self._whole(model) for name, model in zip(names, (dense, *models), strict=True)}
        report = self._bench(folders, self._deployment.bench.seconds, self._deployment.bench.samples)
        first, *others = (percentiles(result.latency_ms, [50])[0] for result in report.measurements)
        reasons = _reasons(report)
        if reasons:
            LOG.warning("the measurement of whole models is INVALID: %s", ", ".join(reasons))
        return WholeModels(first, tuple(others), reasons)

    def _measured(self, probes: Sequence[Probe], dense: Model, matching: Matching | None, number: str) -> ProbeSession:
        """Export and measure the probes of a session."""
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as scratch:
            folders = {str(index): Path(scratch) / str(index) for index in range(len(probes))}
            for index, probe in enumerate(probes):
                self._progress(index, len(probes), f"cost table, session {number}: exporting blocks")
                self._export(probe_model(dense, probe, matching), folders[str(index)], probe.sized)
            self._progress(len(probes), len(probes), f"cost table, session {number}: measuring blocks")
            report = self._bench(folders, SECONDS, SAMPLES)
        latencies = [result.latency_ms for result in report.measurements]
        return ProbeSession(
            tuple(replace(probe, latency_ms=taken) for probe, taken in zip(probes, latencies, strict=True)),
            _reasons(report),
        )

    def _whole(self, model: Model) -> Path:
        """The folder of an exported model; each is exported once."""
        key = hashing.digest([model.info.weights_sha256, records.dumps(model.info)])
        if key not in self._exported:
            folder = Path(self._scratch.name) / f"model-{len(self._exported)}"
            self._export(model, folder)
            self._exported[key] = folder
        return self._exported[key]

    def _export(self, model: Model, folder: Path, sized: bool = False) -> None:
        """sized: the tokens have sizes, and so are not padded, as after a merge."""
        options = self._deployment.export
        if sized:
            kept = tuple(name for name in options.rewrites if name != PAD_TOKENS)
            options = options.model_copy(update={"rewrites": kept})
        sample = random_sample(model) if options.precision != "fp32" else None
        artifact.export(self._deployment.target, model, options, folder, sample)

    def _bench(self, folders: Mapping[str, Path], seconds: float, samples: int) -> BenchReport:
        settings = self._deployment.bench.model_copy(update={"seconds": seconds, "samples": samples})
        subjects = {name: Opened(folder, self.runtime) for name, folder in folders.items()}
        return self._deployment.device.bench(request_of(subjects, settings), silent)

    def _cached(self, dense: Model, matching: Matching | None) -> LatencyTable:
        """The VALID sessions that were measured before, in this process or in others."""
        deployment, libraries = self._deployment, (*plugins.requirements(), *self._deployment.libraries)
        fingerprint = fingerprint_of(dense, deployment, matching)
        empty = LatencyTable(
            fingerprint,
            dense.info.name,
            self.device,
            self.runtime,
            deployment.target,
            self.precision,
            self.batch_size,
            matching,
            deployment.device.environment(libraries),
            (),
        )
        if fingerprint in self.tables:
            return self.tables[fingerprint]
        file = self._file(fingerprint)
        try:
            found = records.load(LatencyTable, file) if file and file.exists() else empty
        except RecordError as error:
            LOG.warning("measuring the cost table again: %s", error.message)
            found = empty
        return replace(found, sessions=tuple(session for session in found.sessions if not session.reasons))

    def _keep(self, record: LatencyTable) -> None:
        """Write the record to the cache, atomically."""
        if (file := self._file(record.fingerprint)) is None:
            return
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            records.save(record, draft)
            draft.replace(file)
        except OSError as error:
            LOG.info("cannot keep the cost table, so it is measured again by the next command: %s", error)

    def _file(self, fingerprint: str) -> Path | None:
        return self._cache / FOLDER / f"{fingerprint[:16]}.json" if self._cache else None


def user_cache() -> Path | None:
    """The user's cache folder; None for a user without a home directory."""
    try:
        return cache_folder()
    except RuntimeError:
        return None


def fingerprint_of(dense: Model, deployment: Deployment, matching: Matching | None) -> str:
    """Hash of everything that the latency of a model's blocks depends on."""
    info = dense.info
    model = [info.name, info.args, info.image_size, len(info.classes), width_of(dense.module)]
    block = records.dumps(shape_of(dense).blocks[0])
    return hashing.digest([toolkit.__version__, model, block, matching, deployment.fingerprint()])


def missing(grid: Grid, sessions: Iterable[ProbeSession]) -> list[list[Probe]]:
    """Sessions that measure the probes of a grid that were not measured yet, each with its references."""
    measured = {key_of(probe) for session in sessions for probe in session.probes}
    result: list[list[Probe]] = []
    for probe in grid.probes():
        if key_of(probe) in measured:
            continue
        needed = [*grid.references(key_of(probe)), probe]
        own_size = bool(result) and result[-1][0].image_size == probe.image_size  # images of a session have one size
        if not own_size or len({*result[-1], *needed}) > PROBES_AT_ONCE:
            result.append([])
        result[-1] += [each for each in needed if each not in result[-1]]
    return result


def _reasons(report: BenchReport) -> tuple[str, ...]:
    """Why the first INVALID measurement is INVALID; empty if all are VALID."""
    return next((result.reasons for result in report.measurements if not result.valid), ())


def random_sample(model: Model) -> Sample:
    """Random images, on which any loss of accuracy is accepted: every layer that can be computed in a lower precision
    then is."""
    size, generator = model.info.image_size, np.random.default_rng(0)
    images = generator.standard_normal((SAMPLE_IMAGES, 3, size, size), dtype=np.float32)
    labels = np.zeros(SAMPLE_IMAGES, dtype=np.int64)
    return Sample(images, (DomainSample("random", images, labels),), margin=1.0)
