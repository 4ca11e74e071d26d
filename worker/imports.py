"""An uploaded archive becomes a version of a data set: `ingest` does the work, this keeps job, rows and objects."""

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from ingest.build import Imported, ImportOptions, Progress, build
from ingest.errors import DiskFullError, ImportRefusedError
from ingest.limits import Limits
from store import datasets
from store.settings import Settings
from store.tables import Job
from worker.context import Context
from worker.held import Held, RefusedJobError

log = structlog.get_logger()

UNNAMED_FOR = timedelta(hours=6)  # longer than any import between its first object and the row that names it
FIRST_EXAMPLES = 100  # of those a finding speaks of


def limits_of(settings: Settings) -> Limits:
    """What an archive and its pictures may be, as the environment sets it."""
    return Limits(
        max_entries=settings.archive_max_entries,
        max_unpacked_bytes=settings.unpacked_max_bytes,
        max_pixels=settings.picture_max_pixels,
    )


def run(context: Context, job: Job, held: Held) -> None:
    """Import `payload.upload_key`. All or nothing: the version's rows and the end of the job are one transaction."""
    assert job.dataset_id is not None
    upload_key: str = job.payload["upload_key"]
    scratch = context.cache / "imports" / f"{job.id}-{job.attempt}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)

    def progress(state: Progress) -> None:
        held.report(stage=state.stage, done=state.done, total=state.total, fraction=round(state.fraction, 3))

    try:
        source = context.objects.fetch(upload_key, context.cache / "objects")
        imported = build(
            source,
            scratch,
            options=ImportOptions.from_json(job.payload["options"]),
            limits=limits_of(context.settings),
            progress=progress,
            processes=os.cpu_count() or 1,
        )
        _keep(context, job, held, imported, scratch)
    except DiskFullError as error:
        raise RefusedJobError(f"{error}; nothing was imported. Make room and send the data again") from error
    except ImportRefusedError as error:
        with context.sessions.begin() as session:
            datasets.doom(session, [upload_key])
            datasets.add_report(session, job.id, ((line.path, line.reason, line.action) for line in error.report))
        raise RefusedJobError(str(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _keep(context: Context, job: Job, held: Held, imported: Imported, scratch: Path) -> None:
    assert job.dataset_id is not None
    prefix = f"datasets/{job.dataset_id}/{job.id}-{job.attempt}"
    names = sorted(path.name for path in scratch.iterdir() if path.is_file())
    keys = {name: f"{prefix}/{name}" for name in names}
    with context.sessions.begin() as session:
        # Until a row names them; a crash between here and there leaves nothing for ever.
        datasets.doom(session, keys.values(), UNNAMED_FOR)
    size = 0
    for name, key in keys.items():
        held.report(stage="storing", done=size, total=None, fraction=1.0)
        size += context.objects.take_file(key, scratch / name)
    with context.sessions.begin() as session:
        version = datasets.add_version(
            session,
            job.dataset_id,
            datasets.NewVersion(
                content_hash=imported.content_hash,
                labels=imported.labels,
                preprocessing=imported.preprocessing.to_json(),
                images_key=keys["images.npy"],
                index_key=keys["index.npz"],
                shard_keys=[keys[name] for name in names if name.startswith("originals-")],
                size_bytes=size,
                stats=_stats(imported),
                example_count=len(imported.examples),
                examples=_rows(imported),
                findings=[
                    {
                        "kind": finding.kind,
                        "severity": finding.severity,
                        "message": finding.message,
                        "labels": list(finding.labels),
                        "examples": [int(number) for number in finding.examples[:FIRST_EXAMPLES]],
                    }
                    for finding in imported.findings
                ],
            ),
        )
        datasets.add_report(session, job.id, ((line.path, line.reason, line.action) for line in imported.report))
        datasets.spare(session, keys.values())
        datasets.doom(session, [job.payload["upload_key"]])
        held.finish(
            session,
            {
                "dataset_id": job.dataset_id,
                "version": version.number,
                "version_id": version.id,
                "examples": version.example_count,
                "labels": len(imported.labels),
                "report_lines": len(imported.report),
                "findings": len(imported.findings),
                "content_hash": imported.content_hash,
            },
        )


def _stats(imported: Imported) -> dict[str, Any]:
    return {"splits": imported.histogram, "counts": imported.counts}


def _rows(imported: Imported) -> Iterator[tuple[Any, ...]]:
    """In the order of store.datasets.EXAMPLE_COLUMNS."""
    for number, row in enumerate(imported.examples):
        yield (
            number, row.path, row.label, row.split, row.sha256, row.phash, row.width, row.height, row.size_bytes,
            row.format, row.shard, row.offset, row.length,
        )  # fmt: skip
