import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hep_shared.signals import StopTraining, install_stop_handlers, stop_flag

HEAD = "import os, signal, time; from hep_shared.signals import *\n"


def run(code):
    return subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_sets_the_flag_and_the_process_goes_on(name):
    result = run(
        "flag = install_stop_handlers(); assert not flag.requested\n"
        f"os.kill(os.getpid(), signal.{name}); install_stop_handlers()\n"
        "print(stop_flag() is flag, flag.requested, flag.signal_name)"
    )
    assert result.stdout.strip() == f"True True {name}"
    assert result.stderr.startswith(f"{name}: ")
    assert "next SIGTERM ends" in result.stderr
    assert result.returncode == 0


def test_a_second_sigterm_ends_the_process():
    result = run(
        "install_stop_handlers()\nfor _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\nprint('alive')"
    )
    assert result.returncode == -signal.SIGTERM
    assert "alive" not in result.stdout


def test_sigusr1_then_sigterm_still_leaves_time_to_save():
    result = run(
        "flag = install_stop_handlers()\n"
        "for s in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM): os.kill(os.getpid(), s)\n"
        "print(flag.signal_name)"
    )
    assert (result.returncode, result.stdout.strip()) == (0, "SIGUSR1")
    assert len(result.stderr.splitlines()) == 1


def test_a_forked_helper_dies_of_sigterm_unless_it_is_shielded():
    result = run(
        "install_stop_handlers()\n"
        "def status(shield):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        if shield: shield_worker(0)\n"
        "        os.kill(os.getpid(), signal.SIGTERM); os._exit(0)\n"
        "    return os.waitpid(pid, 0)[1]\n"
        "print(status(False), status(True))"
    )
    assert result.stdout.strip() == f"{int(signal.SIGTERM)} 0"


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGTERM)
    flags = []
    thread = threading.Thread(target=lambda: flags.append(install_stop_handlers()))
    thread.start()
    thread.join()
    assert flags == [stop_flag()]
    assert signal.getsignal(signal.SIGTERM) == before


def test_stop_training_carries_the_checkpoint():
    stop = pickle.loads(pickle.dumps(StopTraining(Path("run/last.pt"))))
    assert stop.checkpoint == Path("run/last.pt")
    assert os.fspath(stop.checkpoint) in str(stop)
