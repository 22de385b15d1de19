"""The weekly refresh builds every partition anew, and waits until somebody starts it."""

import dagster as dg
from dagster._core.scheduler.instigation import TickStatus

from sd_assets.automation.schedules import weekly_refresh
from sd_assets.definitions import defs
from sd_assets_tests.automation.project import PARTITIONS, Project
from sd_assets_tests.download.misbehaving import Server, answer, in_turn
from sd_assets_tests.sources.conftest import picture

RETRIED = PARTITIONS[0]


def test_schedules_start_stopped() -> None:
    schedules = defs.get_repository_def().schedule_defs
    assert schedules and all(it.default_status is dg.DefaultScheduleStatus.STOPPED for it in schedules)


def test_a_tick_runs_every_partition_and_tries_failed_downloads_again(project: Project) -> None:
    picture_0, picture_1 = (answer(body=picture(number), Content_Type="image/jpeg") for number in range(2))
    with Server() as server:
        server.paths["/0.jpg"] = picture_0
        server.paths["/1.jpg"] = in_turn(answer("503 Service Unavailable"), picture_1)
        server.paths["/2.jpg"] = answer("404 Not Found")
        project.index([server.url(f"/{number}.jpg") for number in range(3)])
        fetched = {"allow_addresses": ["127.0.0.1"], "retries": 0, "retry_failed_after_h": 0}
        project.write(**{RETRIED: {"prompts": {"texts": ["a lamp"]}, "download": fetched}})
        project.build(RETRIED)
        by_url = sorted_by_url(project)
        assert [error for _, error in by_url] == [None, "server_error", "not_found"]

        project.start(weekly_refresh.name)
        # It is Monday noon: nothing happens before Sunday at three.
        assert project.schedule_ticks(weekly_refresh.name, days=5) == []
        (tick,) = project.schedule_ticks(weekly_refresh.name, days=1)
        assert tick.status is TickStatus.SUCCESS
        assert tick.timestamp == 1_799_550_000  # 2027-01-10T03:00Z
        assert project.started_by(tick) == PARTITIONS
        # The daemon looks again before the next week.
        assert len(project.schedule_ticks(weekly_refresh.name, days=1)) == 1

        assert project.run_queued(RETRIED) == {RETRIED: "SUCCESS"}
        assert [error for _, error in sorted_by_url(project)] == [None, None, "not_found"]
        assert dict(server.requests) == {"/robots.txt": 2, "/0.jpg": 1, "/1.jpg": 2, "/2.jpg": 1}
    report = project.report("downloaded_images", RETRIED)
    assert (report["rows_in"], report["rows_ok"], report["rows_reused"]) == (3, 2, 2)
    assert len(project.column("text_image_pairs", RETRIED, "url")) == 2


def sorted_by_url(project: Project) -> list[tuple[str, str | None]]:
    """(url, error) of the downloads."""
    columns = (project.column("downloaded_images", RETRIED, name) for name in ("url", "error"))
    return sorted(zip(*columns, strict=True))
