"""The host's work is measured of steps that go on as they do."""

import pytest

from benchmarks import host


@pytest.mark.parametrize("beams", ["1", "4"])
def test_the_hosts_work_is_measured_of_all_rows(beams: str, capsys: pytest.CaptureFixture[str]) -> None:
    host.main(["--rows", "8", "--beams", beams, "--steps", "5", "--no-repeat-ngram-size", "3"])
    assert f"8 rows, {beams} beams" in capsys.readouterr().out
