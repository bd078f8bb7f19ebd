"""Every error the package raises on purpose. Each message names the fix."""


class HfQuantError(Exception):
    """Base of all errors of this package."""


class ConfigError(HfQuantError, ValueError):
    """A config, scheme, preset, recipe or command-line value is not valid."""


class UnknownName(ConfigError):
    """A name is not in the table it was looked up in."""


class PlanError(ConfigError):
    """A plan, or a problem it is the answer to, does not fit the model: unmatched patterns, wrong widths, conflicts."""


class InfeasibleBudget(PlanError):
    """No choice of schemes keeps to a budget, or the float model does already; the message says what can be had."""


class WeightError(HfQuantError, ValueError):
    """A float weight cannot be quantized: NaN, Inf, empty, or of the wrong shape."""


class CalibrationError(HfQuantError, ValueError):
    """Calibration data is missing or unusable, or what was observed of it is: NaN, Inf, or nothing at all."""


class EvaluationError(HfQuantError, ValueError):
    """Models cannot be compared, or not on this data: other labels or tokenizers, missing columns, NaN outputs."""


class DataError(CalibrationError, EvaluationError):
    """A file or a row of data cannot be read, whatever it is read for."""


class MetricUnavailable(EvaluationError):
    """A metric needs the network, or a package that is not installed; the message names metrics that need neither."""


class TrainingError(HfQuantError, RuntimeError):
    """Training with quantization in the loop went wrong: a learned scale is NaN, or not positive any more (or zero)."""


class CheckpointError(HfQuantError, ValueError):
    """A quantized checkpoint is truncated, tampered with, or from a newer version."""


class LayoutError(HfQuantError, ValueError):
    """A checkpoint of another program holds what no format of ours can, bit for bit; the message says what to take."""


class SaveError(HfQuantError, OSError):
    """A checkpoint could not be written; nothing half-written was left behind."""


class ExportError(HfQuantError, ValueError):
    """A model cannot be exported: a target cannot express it, or computes something else; nothing was written."""


class QuantizedWeightError(HfQuantError, RuntimeError):
    """A quantized weight was to be written to or trained; the message names the module and what to do instead."""


class KernelError(HfQuantError, RuntimeError):
    """A kernel was asked for what it does not support."""


class UnsupportedModel(HfQuantError, TypeError):
    """The model or the requested operation on it is not supported."""


class MissingDependency(HfQuantError, ImportError):
    """An optional package is not installed; the message says what to install."""
