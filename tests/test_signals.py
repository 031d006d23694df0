"""SIGTERM and Ctrl-C where there is nothing to save: the program ends at once, with status 0 and the way to go on."""
import os
import signal
import threading

import pytest

from unet_jax import command_line, signals


def wait_with_a_signal(*kinds):
    """Waits for something that never comes, while the signals do."""
    for k, kind in enumerate(kinds):
        threading.Timer(0.1 + 0.1 * k, os.kill, [os.getpid(), kind]).start()
    assert not threading.Event().wait(30)


@pytest.mark.parametrize('kind', ['SIGTERM', 'SIGINT'])
def test_a_signal_ends_a_wait_with_the_command_that_goes_on(kind, capsys, monkeypatch):
    monkeypatch.setattr(signals.sys, 'argv', ['main.py', '--workdir=a b', '--mode=evaluate'])

    def evaluate(_):
        with signals.raised():
            wait_with_a_signal(getattr(signal, kind))

    with pytest.raises(SystemExit) as left:
        command_line.explain(evaluate, None)
    assert left.value.code == 0
    assert f"{kind}: stopped" in (said := capsys.readouterr().out)
    assert "python main.py '--workdir=a b' --mode=evaluate" in said
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was before


def test_what_is_only_noted_ends_at_once_with_a_second_ctrl_c():
    with signals.raised(), signals.noted() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == ['SIGTERM']
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
