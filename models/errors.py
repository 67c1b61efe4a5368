"""What can go wrong with recordings, training and artefacts.

GatewatchError
├── ShapeError         arrays that do not fit together
├── RecordingError     a file of readings that cannot be read as one
├── TrainingError      too little data, or a loss that is not a number
├── CalibrationError   scores from which no threshold can be learned
├── EvaluationError    labels that do not fit the recordings, or nothing to evaluate
└── ArtefactError      an artefact that is missing, damaged or of another format
    ├── RepositoryError     the repository of models cannot be read or written, or holds something else
    │   └── RepositoryAway      it cannot be reached, or is not where it was
    ├── UnknownModel        no such model, version or alias in it
    ├── UnfitModel          a version that may not be promoted as it is
    │   └── NotBetter           it was to be better than the one that it replaces
    └── ChangedMeanwhile    somebody else changed the model at the same time
"""


class GatewatchError(Exception):
    """Base of all errors a user can run into; the message says what was met, what was expected, what to do."""


class ShapeError(GatewatchError, ValueError):
    """Arrays whose shapes do not fit together."""


class RecordingError(GatewatchError, ValueError):
    """A file of readings that cannot be read as a recording."""


class TrainingError(GatewatchError, RuntimeError):
    """A network that cannot be trained on what was given."""


class CalibrationError(GatewatchError, ValueError):
    """Scores from which no threshold can be learned."""


class EvaluationError(GatewatchError, ValueError):
    """Labels that do not fit the recordings, or nothing to evaluate."""


class ArtefactError(GatewatchError, RuntimeError):
    """An artefact that is missing, damaged or of another format version."""


class RepositoryError(ArtefactError):
    """A repository of models that cannot be reached, or holds something that it did not write."""


class RepositoryAway(RepositoryError):
    """A repository of models that cannot be reached now: not mounted, no network, no right, no answer in time."""


class UnknownModel(ArtefactError):
    """A model, a version or an alias that is not in the repository."""


class UnfitModel(ArtefactError):
    """A version that would not go on with the streams of the one before as they are."""


class NotBetter(UnfitModel):
    """A version that was to be promoted only if it is better than the one before, and is not or was not looked at."""


class ChangedMeanwhile(ArtefactError):
    """A model that somebody else changed between the look at it and the change; look, and do it again."""
