"""The errors that hfft raises on purpose: what is wrong, where, and what to do, in one line each."""

from __future__ import annotations


class HfftError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""


class ArgumentError(HfftError):
    """A flag, a YAML key or a value is wrong. The command line exits with code 2."""


class DataError(HfftError):
    """The images, their labels or their folders are not usable as they are."""


class ModelError(HfftError):
    """The model cannot be loaded, or it is not an image classifier that can be fine-tuned."""


class PluginError(HfftError):
    """No plugin, too many plugins, or a plugin that contradicts the model it describes."""


class UnsupportedModelError(PluginError):
    """A plugin knows this architecture and knows why it cannot be fine-tuned block by block."""


class OutputError(HfftError):
    """The output folder, the cache folder or the disk beneath them refuses."""


class DivergedError(HfftError):
    """The loss is no longer a finite number."""


class HubError(HfftError):
    """The Hub refuses, or cannot be reached."""


class PreemptedError(HfftError):
    """The system asked the run to end (SIGTERM). The command line exits with code 143."""


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, without a full stop at its end."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
