"""The error tree.

```text
FlywheelError
├── ConfigurationError        a setting or flywheel.toml is wrong            (names the key)
├── WorkspaceError            the workspace is missing, locked or damaged
├── ArtefactError             a download, cache or weights file is not what it should be
│   └── ArtefactStoreError    the store of artefacts cannot be reached or refused (retryable)
├── BrokerError               Kafka cannot be reached or refused something   (retryable)
│   ├── ForeignBroker         the broker that answers is another workspace's
│   └── RecordRefused         a record that its topic does not take
├── StorageError              the database cannot be reached or refused      (retryable)
├── EventError
│   ├── MalformedEvent        the bytes are not the event they claim to be
│   ├── UnknownEvent          no such schema, or a major version not known here
│   └── RejectedEvent         a valid event that the task's configuration cannot accept
├── RequestError              an HTTP request that cannot be served as it is
│   ├── NotFound
│   ├── Conflict
│   │   └── LeaseLost         another process has taken over what this one was doing
│   ├── Unauthorised
│   ├── ForbiddenOrigin       another site caused it, or it names a host that is not ours
│   ├── TooLarge
│   ├── UnknownLabel          the answer is not one of the task's labels
│   ├── NoModel               nothing answers such inputs, now or in a moment
│   ├── TooManyRequests       (retryable)
│   └── Unavailable           (retryable)
│       └── ReleaseNotLoaded  it could not be loaded, and waiting a moment will not help
└── PipelineError             a training pipeline stage failed
    └── StageKilled           a signal ended it
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class FlywheelError(Exception):
    """Base of every error this product raises on purpose.

    ``code`` is stable and meant for programs; the message is meant for people and says what was
    wrong, with which input, and what to do. ``retryable`` says whether the same call may succeed
    later without anyone changing anything.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"


class ConfigurationError(FlywheelError):
    """A setting is missing or has a bad value; the message names the key."""

    code = "configuration"
    title = "Bad configuration"

    def __init__(self, key: str, problem: str, hint: str = "") -> None:
        self.key = key
        self.problem = problem
        self.hint = hint
        super().__init__(f"{key}: {problem}" + (f" — {hint}" if hint else ""))


class WorkspaceError(FlywheelError):
    """The workspace is missing, already in use, or damaged."""

    code = "workspace"
    title = "Workspace not usable"


class ArtefactError(FlywheelError):
    """A file that was fetched, cached or trained is missing or differs from its checksum."""

    code = "artefact"
    title = "Artefact not usable"


class ArtefactStoreError(ArtefactError):
    """Where artefacts are kept could not be reached, or refused the operation."""

    code = "artefact-store"
    retryable = True
    status = 503
    title = "Store of artefacts not available"


class BrokerError(FlywheelError):
    """Kafka could not be reached or refused the operation."""

    code = "broker"
    retryable = True
    status = 503
    title = "Broker not available"


class ForeignBroker(BrokerError):
    """Another Kafka than the workspace's own answers where that should: nothing was asked of it."""

    code = "foreign-broker"
    retryable = False
    title = "Another workspace's broker"


class RecordRefused(BrokerError):
    """Kafka answered and takes no such record as its topic is set up: too large, mostly.

    ``refused`` has the place of each such record among those that were to be published, and why;
    all the others are stored. Without any, it is not known which it was.
    """

    code = "record-refused"
    title = "Record refused"

    def __init__(self, message: str, refused: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.refused = dict(refused or {})


class StorageError(FlywheelError):
    """The database could not be reached or refused the operation."""

    code = "storage"
    retryable = True
    status = 503
    title = "Database not available"


class EventError(FlywheelError):
    """An event cannot be used; it belongs in the dead-letter topic."""

    code = "event"
    status = 422
    title = "Event not usable"


class MalformedEvent(EventError):
    """The bytes of a record are not a valid event of the schema its header names."""

    code = "malformed-event"


class UnknownEvent(EventError):
    """The schema name, or its major version, is not known to this version of the product."""

    code = "unknown-event"


class RejectedEvent(EventError):
    """The event is well formed, but its task or label is not one that is configured."""

    code = "rejected-event"


class RequestError(FlywheelError):
    """A request that cannot be served as it is; ``param`` is the field that is to blame."""

    code = "bad-request"
    status = 400
    title = "Bad request"

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class NotFound(RequestError):
    """The thing asked for does not exist."""

    code = "not-found"
    status = 404
    title = "Not found"


class Conflict(RequestError):
    """The thing is in a state that does not allow the operation."""

    code = "conflict"
    status = 409
    title = "Conflict"


class LeaseLost(Conflict):
    """Another process has taken over what this one was doing: its write is refused, and nothing of
    it is needed."""

    code = "lease-lost"
    title = "Lease lost"


class Unauthorised(RequestError):
    """Credentials are missing or wrong."""

    code = "unauthorised"
    status = 401
    title = "Unauthorised"


class ForbiddenOrigin(RequestError):
    """A request that another site caused, or that names a host which is not ours."""

    code = "forbidden-origin"
    status = 403
    title = "Forbidden"


class TooLarge(RequestError):
    """The body or the text of a request is larger than what is accepted."""

    code = "too-large"
    status = 413
    title = "Request too large"


class UnknownLabel(RequestError):
    """The answer is not one of the task's labels."""

    code = "unknown-label"
    status = 422
    title = "Unknown label"


class NoModel(RequestError):
    """No model answers inputs of this kind; waiting will not help."""

    code = "no-model"
    status = 501
    title = "No model answers"


class TooManyRequests(RequestError):
    """A rate limit or a bounded queue is full; retry after ``retry_after`` seconds."""

    code = "too-many-requests"
    status = 429
    title = "Too many requests"
    retryable = True

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(RequestError):
    """Nothing can answer now; retry after ``retry_after`` seconds."""

    code = "unavailable"
    status = 503
    title = "Service unavailable"
    retryable = True

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ReleaseNotLoaded(Unavailable):
    """A model server could not load the release, and somebody must do something before it can."""

    code = "release-not-loaded"


class PipelineError(FlywheelError):
    """A stage of the training pipeline failed; the message is the stage's own last error."""

    code = "pipeline"
    title = "Pipeline failed"


class StageKilled(PipelineError):
    """A signal ended a stage of the training pipeline: memory ran out, a person, a crash."""

    code = "stage-killed"
