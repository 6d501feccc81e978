"""The errors that hfft raises on purpose: what is wrong, where, and what to do, in one line each."""

from __future__ import annotations

from typing import ClassVar


class HfftError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback.

    Attributes:
        code: what ``--json`` calls this kind of error; never changed.
    """

    code: ClassVar[str] = "failed"


class ArgumentError(HfftError):
    """A flag, a YAML key or a value is wrong. The command line exits with code 2."""

    code = "argument"


class DataError(HfftError):
    """The images, their labels or their folders are not usable as they are."""

    code = "data"


class ModelError(HfftError):
    """The model cannot be loaded, or it is not an image classifier that can be fine-tuned."""

    code = "model"


class PluginError(HfftError):
    """No plugin, too many plugins, or a plugin that contradicts the model it describes."""

    code = "plugin"


class UnsupportedModelError(PluginError):
    """A plugin knows this architecture and knows why it cannot be fine-tuned block by block."""

    code = "unsupported_model"


class OutputError(HfftError):
    """The output folder, the cache folder or the disk beneath them refuses."""

    code = "output"


class DivergedError(HfftError):
    """The loss is no longer a finite number."""

    code = "diverged"


class HubError(HfftError):
    """The Hub refuses, or cannot be reached."""

    code = "hub"


class PreemptedError(HfftError):
    """The system asked the run to end (SIGTERM). The command line exits with code 143.

    Args:
        message: for the user.
        checkpoint: whether a checkpoint holds all that was learned.
    """

    code = "preempted"

    def __init__(self, message: str, checkpoint: bool = False) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class TerminatedError(KeyboardInterrupt):
    """The system asked the program to end (SIGTERM) where no job has its own way to; it ends as at an interrupt."""


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, without a full stop at its end."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
