"""The line that long commands show."""

import io

from pipelines.progress import Progress, clock


def test_the_line_has_count_share_rate_and_time_left():
    progress = Progress("ingest", 10_000, "images", stream=io.StringIO())
    progress.add(2_500)
    assert progress.line(seconds=5) == "ingest: 2,500 of 10,000 images (25 %), 500/s, 0:15 left"
    progress.add(7_500)
    assert progress.line(seconds=20) == "ingest: 10,000 of 10,000 images (100 %), 500/s"


def test_what_an_earlier_run_did_counts_as_done_but_not_for_the_rate():
    progress = Progress("ingest", 1_000, "images", already=800, stream=io.StringIO())
    progress.add(100)
    assert progress.line(seconds=10) == "ingest: 900 of 1,000 images (90 %), 10/s, 0:10 left"


def test_a_log_file_gets_whole_lines():
    stream = io.StringIO()
    progress = Progress("ingest", 2, "images", stream=stream)
    progress.add(1)  # too soon after the start to be worth a line
    progress.close()
    assert stream.getvalue().count("\n") == 1 and "\r" not in stream.getvalue()


def test_times():
    assert [clock(seconds) for seconds in (0.4, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
