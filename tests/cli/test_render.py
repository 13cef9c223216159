"""What a log shows of work in progress."""

from sdquant_cli.cli import render


def lines_of(monkeypatch, *, total, done, seconds, steps):
    """Lines told while each step takes so many seconds."""
    now = [0.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    with render._stderr.capture() as told, render.Terminal().task("fitting", total, "unit", done) as task:
        for _ in range(steps):
            now[0] += seconds
            task.advance()
    return told.get().splitlines()


def test_a_line_for_each_tenth_with_the_time_that_is_left(monkeypatch):
    told = lines_of(monkeypatch, total=20, done=0, seconds=0.25, steps=4)
    assert told == ["fitting: 2/20, 4.0 unit/s, 4 s left", "fitting: 4/20, 4.0 unit/s, 4 s left"]


def test_the_pace_is_of_what_this_run_has_done(monkeypatch):
    told = lines_of(monkeypatch, total=20, done=10, seconds=4, steps=2)
    assert told == ["fitting: 12/20, 4.0 s/unit, 32 s left"]
