"""The tables. What a state implies stands in CHECK constraints; the functions per noun keep the rest."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from store.states import DatasetState, DeploymentState, JobState, SearchState, TrialState

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it from the class
        str: Text(),
        int: BigInteger(),
        float: Float(53),
        datetime: DateTime(timezone=True),
        bytes: LargeBinary(),
        Json: JSONB(none_as_null=True),
        list[str]: JSONB(none_as_null=True),
        list[int]: JSONB(none_as_null=True),
        list[float]: JSONB(none_as_null=True),
        list[list[int]]: JSONB(none_as_null=True),
        list[list[float]]: JSONB(none_as_null=True),
        list[Json]: JSONB(none_as_null=True),
    }


def state_column(kind: type[StrEnum], first: StrEnum) -> Mapped[Any]:
    """A state kept as text, with a CHECK that lists the legal ones."""
    values = Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        name="state",
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )
    return mapped_column(values, default=first, server_default=first.value)


def created_column() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


class Dataset(Base):
    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    task: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    state: Mapped[DatasetState] = state_column(DatasetState, DatasetState.EMPTY)
    revision: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = created_column()

    versions: Mapped[list["DatasetVersion"]] = relationship(
        back_populates="dataset", order_by="DatasetVersion.number", passive_deletes=True, cascade="all"
    )

    __table_args__ = (CheckConstraint("task IN ('image_classification')", "task"),)


class DatasetVersion(Base):
    """Frozen: what a search saw stays what it saw."""

    __tablename__ = "dataset_versions"

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    number: Mapped[int]
    content_hash: Mapped[str]
    labels: Mapped[list[str]]
    preprocessing: Mapped[Json]
    images_key: Mapped[str]  # (N, side, side, channels) uint8 .npy in the object store
    index_key: Mapped[str]  # labels and splits, .npz
    shard_keys: Mapped[list[str]]  # the uploaded bytes, concatenated
    example_count: Mapped[int]
    size_bytes: Mapped[int]  # of all objects
    stats: Mapped[Json]  # label histogram per split, counts of the import
    created_at: Mapped[datetime] = created_column()

    dataset: Mapped[Dataset] = relationship(back_populates="versions")

    __table_args__ = (
        UniqueConstraint("dataset_id", "number"),
        CheckConstraint("example_count > 0", "not_empty"),
    )


class Example(Base):
    __tablename__ = "examples"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # its place in images.npy
    path: Mapped[str]
    label: Mapped[int]
    split: Mapped[int] = mapped_column(SmallInteger)  # 0 train, 1 validation, 2 test
    sha256: Mapped[bytes]
    phash: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]
    format: Mapped[str]
    shard: Mapped[int]
    shard_offset: Mapped[int]
    shard_length: Mapped[int]

    __table_args__ = (
        CheckConstraint("split IN (0, 1, 2)", "split"),
        Index(None, "version_id", "label", "number"),
    )


class Finding(Base):
    __tablename__ = "findings"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    severity: Mapped[str]
    message: Mapped[str]
    labels: Mapped[list[str]]
    examples: Mapped[list[int]]  # numbers, the first few

    __table_args__ = (CheckConstraint("severity IN ('info', 'warning', 'error')", "severity"),)


class Job(Base):
    """A slow thing that is no search: claimed, leased, resumable."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    state: Mapped[JobState] = state_column(JobState, JobState.QUEUED)
    attempt: Mapped[int] = mapped_column(server_default="0")  # fences: every claim raises it
    losses: Mapped[int] = mapped_column(server_default="0")  # how often its worker died under it
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    hinted_at: Mapped[datetime] = created_column()
    cancel_requested_at: Mapped[datetime | None]
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    payload: Mapped[Json]
    input_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("blobs.sha256"))  # bytes it needs; gone when it ends
    progress: Mapped[Json] = mapped_column(server_default="{}")
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = created_column()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "kind IN ('import', 'evaluation', 'export', 'batch_prediction', 'reference', 'explanation')", "kind"
        ),
        CheckConstraint("state <> 'running' OR lease_until IS NOT NULL", "running_has_lease"),
        CheckConstraint("state <> 'succeeded' OR result IS NOT NULL", "succeeded_has_result"),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", "failed_has_error"),
        Index(None, "state", "lease_until"),
    )


class ReportLine(Base):
    """What became of one item of an import that was refused or mended."""

    __tablename__ = "report_lines"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    reason: Mapped[str]
    action: Mapped[str]


class Search(Base):
    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"))
    objective: Mapped[str]
    space: Mapped[str]
    space_options: Mapped[Json] = mapped_column(server_default="{}")
    strategy: Mapped[str]
    strategy_options: Mapped[Json] = mapped_column(server_default="{}")
    strategy_state: Mapped[Json | None]
    seeds: Mapped[list[Json]] = mapped_column(server_default="[]")  # to begin with: {genotype, trial, refit}
    proxy: Mapped[Json] = mapped_column(server_default="{}")  # what candidates are compared on: fraction, side
    floor: Mapped[Json | None]  # the fixed genotype, chosen at the first turn
    limits: Mapped[Json] = mapped_column(server_default="{}")  # as given, and from the first turn on what is `foretold`
    seed: Mapped[int]
    budget_s: Mapped[float | None]
    budget_trials: Mapped[int | None]
    spent_s: Mapped[float] = mapped_column(server_default="0")
    ticked_at: Mapped[datetime | None]  # until when `spent_s` counts
    state: Mapped[SearchState] = state_column(SearchState, SearchState.QUEUED)
    hinted_at: Mapped[datetime] = created_column()
    cancel_requested_at: Mapped[datetime | None]
    best_trial_id: Mapped[str | None]
    model_id: Mapped[str | None]  # the best so far, deployable
    error: Mapped[str | None]
    failed_turns: Mapped[int] = mapped_column(server_default="0")  # in a row
    created_at: Mapped[datetime] = created_column()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(server_default="1")

    version: Mapped[DatasetVersion] = relationship()

    __table_args__ = (
        CheckConstraint("(budget_s IS NULL) <> (budget_trials IS NULL)", "one_budget"),
        CheckConstraint("state <> 'succeeded' OR model_id IS NOT NULL", "succeeded_has_model"),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", "failed_has_error"),
        Index(None, "state"),
    )


class SearchNote(Base):
    """What the strategy of a search learned, to be drawn; replaced when a rebuilt state learns it again."""

    __tablename__ = "search_notes"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # in the order they were first learned
    kind: Mapped[str]
    step: Mapped[int]  # as the strategy counts
    data: Mapped[Json]
    at: Mapped[datetime] = created_column()

    __table_args__ = (UniqueConstraint("search_id", "kind", "step"),)


class Trial(Base):
    __tablename__ = "trials"

    id: Mapped[str] = mapped_column(primary_key=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"))
    number: Mapped[int]
    purpose: Mapped[str]
    candidate: Mapped[Json]  # genotype, fidelity, parent
    key: Mapped[str]  # canonical: isomorphic architectures share it
    seed: Mapped[int]
    warm_start_id: Mapped[str | None]
    state: Mapped[TrialState] = state_column(TrialState, TrialState.QUEUED)
    attempt: Mapped[int] = mapped_column(server_default="0")  # fences: every claim raises it
    losses: Mapped[int] = mapped_column(server_default="0")  # how often its worker died under it
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    hinted_at: Mapped[datetime] = created_column()
    told_at: Mapped[datetime | None]  # when the strategy heard of it
    score: Mapped[float | None]
    merit: Mapped[float | None]  # what trials are ranked by: the score, and for finals the noise of the validation
    metrics: Mapped[Json | None]
    cost: Mapped[Json | None]
    network_source: Mapped[str | None] = mapped_column(deferred=True)  # Python; None where it cannot be built
    curve: Mapped[list[Json]] = mapped_column(server_default="[]")
    report: Mapped[Json | None]  # of weights that a whole space shares: what they say of it
    seconds: Mapped[float | None]  # of training, in all attempts that count
    held_s: Mapped[float | None]  # those, and what start, export and hand-over took
    checkpoint_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("blobs.sha256"))
    weights_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("blobs.sha256"))
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = created_column()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    search: Mapped[Search] = relationship()

    __table_args__ = (
        UniqueConstraint("search_id", "number"),
        CheckConstraint("purpose IN ('floor', 'supernet', 'explore', 'final')", "purpose"),
        CheckConstraint("report IS NULL OR purpose = 'supernet'", "report_of_supernet"),
        CheckConstraint(
            "purpose <> 'supernet' OR state <> 'succeeded' OR report IS NOT NULL", "succeeded_supernet_has_report"
        ),
        CheckConstraint("state <> 'running' OR lease_until IS NOT NULL", "running_has_lease"),
        CheckConstraint("state <> 'succeeded' OR (score IS NOT NULL AND merit IS NOT NULL)", "succeeded_has_score"),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", "failed_has_error"),
        CheckConstraint("score = score AND abs(score) <> 'Infinity'", "score_is_finite"),
        Index(None, "state", "lease_until"),
        Index(None, "search_id", "state"),
    )


class Model(Base):
    """A trained network under a name; every better one is the next version."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]  # its version
    search_id: Mapped[str | None] = mapped_column(ForeignKey("searches.id", ondelete="SET NULL"))
    trial_id: Mapped[str | None]
    version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id", ondelete="SET NULL"))
    genotype: Mapped[Json]
    space_options: Mapped[Json] = mapped_column(server_default="{}")  # of the genotype's space: to build it again
    mirror_at_test: Mapped[bool] = mapped_column(server_default="false")  # its answer averages those for both sides
    description: Mapped[str]  # the architecture in words
    preprocessing: Mapped[Json]
    labels: Mapped[list[str]]
    metrics: Mapped[Json]  # on validation
    weights_sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256"))
    onnx_sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256"))
    parity: Mapped[float]  # max |torch - ONNX Runtime| over the checked pictures' scores
    params: Mapped[int]
    flops: Mapped[int]
    size_bytes: Mapped[int]  # of the ONNX file
    source: Mapped[str] = mapped_column(deferred=True)  # Python that answers like it, given the weights
    lineage: Mapped[Json]
    created_at: Mapped[datetime] = created_column()

    __table_args__ = (
        UniqueConstraint("name", "number"),
        Index(None, "search_id"),
        UniqueConstraint("trial_id"),
    )


class ModelAlias(Base):
    """A movable name for one version of a model: `flowers@champion`."""

    __tablename__ = "model_aliases"

    name: Mapped[str] = mapped_column(primary_key=True)  # the model's
    alias: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    revision: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = created_column()

    model: Mapped[Model] = relationship(viewonly=True)

    __table_args__ = (
        ForeignKeyConstraint(["name", "number"], ["models.name", "models.number"]),
        Index(None, "name", "number"),
    )


class Evaluation(Base):
    """What a model answered about pictures of a data set. The figures outlive the data set, single answers do not."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id", ondelete="SET NULL"))
    own: Mapped[bool]  # on the version that the model was trained on
    split: Mapped[str]
    example_count: Mapped[int]
    skipped: Mapped[Json]  # unknown_labels: label to pictures; unreadable: pictures
    trained_on: Mapped[int | None]  # of the pictures, how many were in the training part; None once that is deleted
    metrics: Mapped[Json]
    intervals: Mapped[Json]  # metric to low, high, resamples
    per_label: Mapped[list[Json]]
    confusion: Mapped[list[list[int]]] = mapped_column(deferred=True)  # rows: true label, columns: predicted
    reliability: Mapped[list[Json]]
    slices: Mapped[list[Json]]
    curves_sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256"))
    answers_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("blobs.sha256"))
    created_at: Mapped[datetime] = created_column()

    __table_args__ = (
        CheckConstraint("split IN ('train', 'validation', 'test', 'all')", "split"),
        CheckConstraint("version_id IS NOT NULL OR answers_sha256 IS NULL", "no_answers_without_data"),
        Index(None, "model_id", "id"),
        Index(None, "version_id"),
    )


class Export(Base):
    """A model in a format that others read; there is one of each format and options."""

    __tablename__ = "exports"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))  # that made it
    format: Mapped[str]
    options: Mapped[Json]  # with the defaults of those that were not given
    sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256"))
    size_bytes: Mapped[int]
    file_name: Mapped[str]
    media_type: Mapped[str]
    report: Mapped[Json]  # how it was compared with the model, and what came of it
    created_at: Mapped[datetime] = created_column()

    __table_args__ = (
        UniqueConstraint("model_id", "format", "options"),
        CheckConstraint(
            "format IN ('onnx', 'onnx-int8', 'pt2', 'safetensors', 'python', 'docker', 'mlflow')", "format"
        ),
    )


class Explanation(Base):
    """What in one picture speaks for a label, as a model sees it."""

    __tablename__ = "explanations"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))  # that made it
    version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id", ondelete="SET NULL"))
    example: Mapped[int | None]  # of that version; without one the picture was sent along
    method: Mapped[str]
    label: Mapped[str]
    score: Mapped[float]
    predicted: Mapped[str]
    predicted_score: Mapped[float]
    grid: Mapped[list[list[float]]] = mapped_column(deferred=True)  # a number for each packed pixel
    delta: Mapped[float | None]  # what the grid's sum lacks of the difference between two scores
    details: Mapped[Json]  # of the method
    overlay_sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256"))
    overlay_bytes: Mapped[int]
    created_at: Mapped[datetime] = created_column()

    __table_args__ = (
        CheckConstraint("method IN ('integrated_gradients', 'grad_cam', 'occlusion')", "method"),
        CheckConstraint("(method = 'integrated_gradients') = (delta IS NOT NULL)", "delta"),
        Index(None, "model_id", "id"),
    )


class Deployment(Base):
    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[DeploymentState] = state_column(DeploymentState, DeploymentState.DEPLOYED)
    log_sample: Mapped[float] = mapped_column(server_default="1")  # share of the requests that the log keeps
    log_pictures: Mapped[bool] = mapped_column(server_default="false")  # whether their pictures, too
    log_retention_days: Mapped[int] = mapped_column(server_default="7")
    revision: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = created_column()

    targets: Mapped[list["DeploymentTarget"]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by="DeploymentTarget.number"
    )

    __table_args__ = (
        CheckConstraint("log_sample BETWEEN 0 AND 1", "log_sample"),
        CheckConstraint("log_retention_days BETWEEN 1 AND 3650", "log_retention_days"),
    )


class DeploymentTarget(Base):
    """A version that stays, or an alias that is followed."""

    __tablename__ = "deployment_targets"

    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # in the order they were given
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    alias_name: Mapped[str | None]
    alias: Mapped[str | None]
    weight: Mapped[int]  # per cent of the requests
    precision: Mapped[str] = mapped_column(server_default="fp32")

    fixed: Mapped[Model | None] = relationship()
    followed: Mapped[ModelAlias | None] = relationship()

    __table_args__ = (
        ForeignKeyConstraint(["alias_name", "alias"], ["model_aliases.name", "model_aliases.alias"]),
        CheckConstraint("(model_id IS NULL) = (alias IS NOT NULL)", "one_model"),
        CheckConstraint("(alias IS NULL) = (alias_name IS NULL)", "whole_alias"),
        CheckConstraint("weight BETWEEN 1 AND 100", "weight"),
        CheckConstraint("precision IN ('fp32', 'int8')", "precision"),
        Index(None, "model_id"),
        Index(None, "alias_name", "alias"),
    )

    @property
    def model(self) -> Model:
        """The version that answers now."""
        found = self.fixed if self.followed is None else self.followed.model
        assert found is not None
        return found


class LogEntry(Base):
    """One picture that a deployment answered, as far as its sample reaches.

    Names deployment and model without foreign keys: rows are written a moment after the answer, when either may be
    gone, and deleting a deployment does not wait for millions of rows. The sweep removes those that are left behind.
    """

    __tablename__ = "request_log"

    deployment_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str]
    item: Mapped[int] = mapped_column(SmallInteger)  # the picture's place in its request
    at: Mapped[datetime]
    model_id: Mapped[str]
    model: Mapped[str]  # name@version
    label: Mapped[str]
    score: Mapped[float]
    scores: Mapped[list[Json]]  # the best few: {label, score}
    statistics: Mapped[Json]  # of `ingest.statistics`, by name
    latency_ms: Mapped[float]  # of its request
    sha256: Mapped[bytes]  # of the picture as it was sent
    picture_key: Mapped[str | None]  # the picture itself in the object store

    __table_args__ = (Index(None, "deployment_id", "at"), Index(None, "deployment_id", "request_id", "item"))


class TrafficMinute(Base):
    """What one serving process answered for a deployment in one minute: exact, whatever the log keeps.

    Without foreign keys, as `LogEntry`. Each process has rows of its own and writes them again as they grow.
    """

    __tablename__ = "traffic_minutes"

    deployment_id: Mapped[str] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    process: Mapped[str] = mapped_column(primary_key=True)
    answered: Mapped[int]
    refused: Mapped[int]  # 4xx
    failed: Mapped[int]  # 5xx
    latencies: Mapped[Json]  # of those answered: how many in each bin of `store.traffic`, by its number


class Feedback(Base):
    """What a picture that was asked about really shows; it counts once the log holds the prediction."""

    __tablename__ = "feedback"

    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True)
    request_id: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    label: Mapped[str | None]  # null: none of the model's labels
    at: Mapped[datetime] = created_column()

    __table_args__ = (Index(None, "deployment_id", "at"),)


class ModelReference(Base):
    """What a deployed model learnt on, in numbers that live requests are compared with."""

    __tablename__ = "model_references"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))  # which measures it
    training_labels: Mapped[Json | None]  # pictures by label
    validation_labels: Mapped[Json | None]  # the model's answers on validation, by label
    confidences: Mapped[list[float] | None]  # its highest scores there, a sample
    inputs: Mapped[Json | None]  # statistics of training pictures by name: a sample of each


class BatchPrediction(Base):
    """A model's answers to many pictures: what was asked. How it stands is its job's to say, what it answered its parts'."""

    __tablename__ = "batch_predictions"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id", ondelete="SET NULL"))
    model_name: Mapped[str]  # stays when the model is deleted
    model_number: Mapped[int]
    precision: Mapped[str] = mapped_column(
        server_default="fp32"
    )  # of the file that answers: as the deployment's target
    deployment: Mapped[str | None]  # the name that was given for the model
    version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id", ondelete="SET NULL"))
    source: Mapped[Json]  # kind: dataset, upload or uris, and what tells which
    top_k: Mapped[int]
    created_at: Mapped[datetime] = created_column()

    job: Mapped[Job] = relationship()

    __table_args__ = (
        CheckConstraint("top_k > 0", "top_k"),
        CheckConstraint("precision IN ('fp32', 'int8')", "precision"),
        CheckConstraint("source ->> 'kind' IN ('dataset', 'upload', 'uris')", "source"),
        Index(None, "model_id"),
        Index(None, "version_id"),
    )


class BatchPart(Base):
    """Some rows of the answers, in order: written once, by the attempt that held the job then."""

    __tablename__ = "batch_parts"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batch_predictions.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    object_key: Mapped[str]  # gzip of JSON Lines
    size_bytes: Mapped[int]
    rows: Mapped[int]
    errors: Mapped[int]  # of the rows
    correct: Mapped[int]  # of the rows whose true label is known
    labels: Mapped[Json]  # predicted label: rows
    seconds: Mapped[float]  # of work

    __table_args__ = (CheckConstraint("rows > 0 AND errors BETWEEN 0 AND rows", "rows"),)


class Event(Base):
    """Append-only, numbered per stream (a search's or a job's id): what followers read."""

    __tablename__ = "events"

    stream: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    payload: Mapped[Json]
    at: Mapped[datetime] = created_column()


class Blob(Base):
    """Bytes named by their digest: weights, ONNX files, checkpoints."""

    __tablename__ = "blobs"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    size_bytes: Mapped[int]
    created_at: Mapped[datetime] = created_column()


class BlobChunk(Base):
    __tablename__ = "blob_chunks"

    sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes]  # STORAGE EXTERNAL, set by the migration


class DoomedObject(Base):
    """A key of the object store that nothing names any more, or an upload that may never be named.

    Written in the transaction that drops the last name (or before an upload begins); the sweep deletes it once due.
    """

    __tablename__ = "doomed_objects"

    key: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = created_column()


class ApiKey(Base):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)  # SHA-256 of a secret with 256 random bits
    hint: Mapped[str]  # its first characters, to tell keys apart
    created_at: Mapped[datetime] = created_column()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("role IN ('admin', 'editor', 'viewer', 'predictor')", "role"),)


class BrowserSession(Base):
    """A browser that signed in with a key; it goes with its key."""

    __tablename__ = "sessions"

    digest: Mapped[bytes] = mapped_column(primary_key=True)  # SHA-256 of a token with 256 random bits
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = created_column()
    expires_at: Mapped[datetime]


class IdempotentReply(Base):
    """The answer to a POST that carried an Idempotency-Key; kept for a day."""

    __tablename__ = "idempotent_replies"

    api_key_id: Mapped[str] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[bytes]  # of method, path and body
    status: Mapped[int | None]
    headers: Mapped[Json | None]
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = created_column()

    __table_args__ = (Index(None, "created_at"),)


class AuditEntry(Base):
    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = created_column()
    api_key_id: Mapped[str | None]
    action: Mapped[str]
    target: Mapped[str]
    details: Mapped[Json] = mapped_column(server_default="{}")


class Worker(Base):
    """A process that says it is there."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    queues: Mapped[list[str]]
    device: Mapped[Json | None]  # once its trainer has measured it
    beat_at: Mapped[datetime] = created_column()
    started_at: Mapped[datetime] = created_column()
