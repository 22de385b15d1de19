"""Why a run failed, for a person: what its failed steps say, and the checks that stopped it."""

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from sd_assets.errors import SdAssetsError, WriteError

# Errors whose message says all that a person needs.
_EXPECTED = {SdAssetsError.__name__, WriteError.__name__}
_EXPECTED |= {error.__name__ for error in SdAssetsError.__subclasses__()}

# What Dagster raises in the step of a check that failed and blocks.
_CHECK_FAILED = "DagsterAssetCheckFailedError"


def stopped_the_run(found: dg.AssetCheckEvaluation) -> bool:
    """Whether a check failed that lets nothing follow."""
    return not found.passed and bool(found.blocking) and found.severity is dg.AssetCheckSeverity.ERROR


def line_of(found: dg.AssetCheckEvaluation) -> str:
    """What a check found, with its name and that of its asset."""
    return f"{found.asset_key.to_user_string()}, {found.check_name}: {found.description or 'failed'}"


def is_of_check(error: SerializableErrorInfo | None) -> bool:
    """Whether a step failed for a check that stopped the run, and that has said why itself."""
    return error is not None and error.cls_name == _CHECK_FAILED


def own_message(error: SerializableErrorInfo | None) -> str | None:
    """The message of our own error, in what a step raised; None if it was none of ours."""
    while error is not None:
        if error.cls_name in _EXPECTED:
            return error.message.partition(": ")[2].strip()
        error = error.cause
    return None
