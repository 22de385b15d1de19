"""The weekly refresh asks for every partition, and waits until somebody starts it."""

from datetime import UTC, datetime

import dagster as dg

from sd_assets import catalog
from sd_assets.automation.schedules import weekly_refresh
from sd_assets.definitions import defs


def test_every_partition_is_requested() -> None:
    schedule = defs.resolve_schedule_def(weekly_refresh.name)
    with dg.instance_for_test() as instance:
        data = schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance,
                repository_def=defs.get_repository_def(),
                scheduled_execution_time=datetime(2026, 11, 22, 3, tzinfo=UTC),
            )
        )
    requests = data.run_requests or []
    assert [request.partition_key for request in requests] == list(catalog.load().seed_datasets)
    assert schedule.job_name == "build_dataset"


def test_schedules_start_stopped() -> None:
    schedules = defs.get_repository_def().schedule_defs
    assert schedules and all(it.default_status is dg.DefaultScheduleStatus.STOPPED for it in schedules)
