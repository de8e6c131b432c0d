"""Ctrl-C while something is followed."""

import io
import signal

import pytest

from runvoy_cli.following.interrupts import Interrupted, Interrupts


def press():
    signal.raise_signal(signal.SIGINT)


def test_a_press_is_raised_where_nothing_is_lost_by_it_and_once():
    with Interrupts() as interrupts:
        press()
        with pytest.raises(Interrupted), interrupts.interruptible():
            raise AssertionError("it was pressed before")
        interrupts.heard()
        with interrupts.interruptible():
            pass
        with pytest.raises(Interrupted), interrupts.interruptible():
            press()
        interrupts.heard()
        with interrupts.interruptible():
            pass


class PressedInItsFinalizer(io.RawIOBase):
    """What is raised there the interpreter drops, and says nothing."""

    def close(self):
        super().close()
        press()


def drop_a_press():
    PressedInItsFinalizer()
    return True


def test_a_press_that_was_dropped_is_raised_again_before_what_was_interruptible_is_left():
    with Interrupts() as interrupts:
        came_through = []
        with pytest.raises(Interrupted), interrupts.interruptible():
            came_through.append(drop_a_press())
        assert came_through == [True]
        interrupts.heard()
        with interrupts.interruptible():
            pass


def test_another_error_is_not_hidden_by_a_press():
    with Interrupts() as interrupts:
        with pytest.raises(OSError, match="gone"), interrupts.interruptible():
            raise OSError("gone" if drop_a_press() else "it was not dropped")
        with pytest.raises(Interrupted), interrupts.interruptible():
            raise AssertionError("it was pressed before")


def test_the_third_press_leaves_wherever_it_comes_and_then_ctrl_c_is_what_it_was():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        press()
        press()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_where_interrupts_are_ignored_they_stay_so():
    """As `nohup` and a script's `&` have it: Ctrl-C is for what runs in the foreground."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            press()
            with interrupts.interruptible():
                press()
            press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
