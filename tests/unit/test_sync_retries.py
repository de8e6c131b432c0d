"""How long the folder daemon waits between two tries."""

from runvoy_sync.retries import pause_after


def test_pauses_double_up_to_half_a_minute():
    assert [pause_after(failures) for failures in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert pause_after(10_000) == 30
