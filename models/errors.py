"""What can go wrong with recordings, training and artefacts.

GatewatchError
├── ShapeError         arrays that do not fit together
├── RecordingError     a file of readings that cannot be read as one
├── TrainingError      too little data, or a loss that is not a number
├── CalibrationError   scores from which no threshold can be learned
├── EvaluationError    labels that do not fit the recordings, or nothing to evaluate
└── ArtefactError      an artefact that is missing, damaged or of another format
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
