"""Every error of the provider.

BatchError
├─ JobDefinitionError(ValueError)     raised while the DAG file is parsed
│  ├─ DuplicateStepError · InvalidExpressionError · InvalidOptionError
├─ LoadError                          the input could not become an instance
│  ├─ SourceError                     retried: the input may be readable later
│  └─ UnsupportedPayloadError · DuplicateInstanceError · TooManyRecordsError · TooFewRecordsError
├─ InstanceNotFoundError · NotLoadedError · RedriveRefusedError     what was asked for cannot be done
├─ StorageError                       retried: the store may answer later
│  ├─ CheckpointMissingError · GenerationGoneError · LayoutVersionError · CorruptCheckpointError     not retried
│  ├─ UnstorableColumnsError           not retried: Parquet cannot hold what a step made
│  └─ OlderGenerationError            not retried: the target holds another generation's rows
├─ StopProcessingError                the engine's own decision; not retried
│  └─ FailureLimitExceededError · DeadlineExceededError · StopRequestedError · FencedError
├─ StepsChangedError                  the job has other steps now than its load knew
├─ InvalidReturnError                 a step returned what it may not for a block; not retried
├─ ExpressionLimitError               retried: an expression took too much time or memory
├─ CircuitOpenError                   retried after a delay
├─ ProcessDiedError                   the process of a step was killed; a row of the ledger, else retried
├─ UserCodeError                      what a step raised; becomes a row of the ledger
├─ DataLossError                      reconciliation failed
└─ JobFailedError                     the verdict of on-complete; holds the result

A constructor takes facts and builds the message, which ends in what to do next. Every class pickles, because
errors cross process borders. ``retryable`` says whether trying the same task again can help.

Import them from here: a traceback names this place too, whichever module a class is written in.
"""

from __future__ import annotations

from batch_provider.domain.errors.asking import InstanceNotFoundError, NotLoadedError, RedriveRefusedError
from batch_provider.domain.errors.base import BatchError
from batch_provider.domain.errors.definition import (
    DuplicateStepError,
    InvalidExpressionError,
    InvalidOptionError,
    JobDefinitionError,
)
from batch_provider.domain.errors.loading import (
    DuplicateInstanceError,
    LoadError,
    SourceError,
    TooFewRecordsError,
    TooManyRecordsError,
    UnsupportedPayloadError,
)
from batch_provider.domain.errors.processing import (
    CircuitOpenError,
    DeadlineExceededError,
    ExpressionLimitError,
    FailureLimitExceededError,
    FencedError,
    InvalidReturnError,
    ProcessDiedError,
    StepsChangedError,
    StopProcessingError,
    StopRequestedError,
    UserCodeError,
)
from batch_provider.domain.errors.storage import (
    CheckpointMissingError,
    CorruptCheckpointError,
    GenerationGoneError,
    LayoutVersionError,
    OlderGenerationError,
    StorageError,
    UnstorableColumnsError,
)
from batch_provider.domain.errors.verdict import DataLossError, JobFailedError

__all__ = [
    "BatchError",
    "CheckpointMissingError",
    "CircuitOpenError",
    "CorruptCheckpointError",
    "DataLossError",
    "DeadlineExceededError",
    "DuplicateInstanceError",
    "DuplicateStepError",
    "ExpressionLimitError",
    "FailureLimitExceededError",
    "FencedError",
    "GenerationGoneError",
    "InstanceNotFoundError",
    "InvalidExpressionError",
    "InvalidOptionError",
    "InvalidReturnError",
    "JobDefinitionError",
    "JobFailedError",
    "LayoutVersionError",
    "LoadError",
    "NotLoadedError",
    "OlderGenerationError",
    "ProcessDiedError",
    "RedriveRefusedError",
    "SourceError",
    "StepsChangedError",
    "StopProcessingError",
    "StopRequestedError",
    "StorageError",
    "TooFewRecordsError",
    "TooManyRecordsError",
    "UnstorableColumnsError",
    "UnsupportedPayloadError",
    "UserCodeError",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
