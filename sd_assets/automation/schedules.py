"""Schedules. They start stopped: a refresh costs downloads and GPU time, so somebody has to want it."""

from collections.abc import Iterator

import dagster as dg

from sd_assets.assets.common import SEEDS
from sd_assets.automation.jobs import BUILD_DATASET


@dg.schedule(job_name=BUILD_DATASET, cron_schedule="0 3 * * 0", execution_timezone="UTC")
def weekly_refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Sundays at 03:00 UTC: a run for every seed dataset.

    What has not changed costs nothing; downloads that failed in a way that may pass are tried again.
    """
    for partition in SEEDS.get_partition_keys():
        # Whatever the daemon goes through, one tick starts one run of a partition.
        yield dg.RunRequest(
            run_key=f"{context.scheduled_execution_time.isoformat()}/{partition}", partition_key=partition
        )
