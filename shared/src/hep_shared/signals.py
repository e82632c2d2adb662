"""Stop requests from a batch system, remembered until the training loop can save.

Slurm (``--signal=USR1@120``, requeue) and HTCondor (vacate) announce the end of a job by a signal. The
handler only sets a flag; the loop looks at it between two steps, saves, and leaves with exit code 85, which
means "checkpointed, run me again" (``checkpoint_exit_code`` of HTCondor; an sbatch wrapper requeues on it).
"""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

EXIT_CHECKPOINTED = 85


@dataclass
class StopFlag:
    """Whether a stop was requested, and by which signal."""

    requested: bool = False
    signal_name: str | None = None


class StopTraining(Exception):  # noqa: N818  a request, not an error
    """Raised by a training loop once it has saved after a stop request.

    Args:
        checkpoint: The checkpoint that the next start resumes from.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"stopped on request; the checkpoint is {checkpoint}")
        self.checkpoint = checkpoint


_flag = StopFlag()
_installed_in: int | None = None  # process id: a forked child must not believe it has handlers of its own


def stop_flag() -> StopFlag:
    """The flag of this process.

    Returns:
        The one StopFlag that the handlers set.
    """
    return _flag


def install_stop_handlers() -> StopFlag:
    """Let SIGTERM and SIGUSR1 set the flag; a second SIGTERM ends the process as usual.

    Call it in the first lines of a program: importing torch takes seconds, and a signal that falls into them
    would end the job. Calling it again, or outside the main thread, changes nothing.

    Returns:
        The one StopFlag of this process.
    """
    global _installed_in
    if _installed_in != os.getpid() and threading.current_thread() is threading.main_thread():
        _installed_in = os.getpid()
        signal.signal(signal.SIGTERM, _request_stop)
        signal.signal(signal.SIGUSR1, _request_stop)
    return _flag


def shield_worker(worker_id: int = 0) -> None:
    """Let a DataLoader worker outlive the first SIGTERM; give it as ``worker_init_fn``.

    Slurm signals every process of a step. A worker that dies of it would break the batch that the main
    process still needs before it can save. A second SIGTERM ends the worker.

    Args:
        worker_id: Unused; DataLoader passes it.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _restore_default(signal.SIGTERM))


def _request_stop(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGTERM:
        _restore_default(signum)
        if os.getpid() != _installed_in:  # a forked helper inherited the handler but has nothing to save
            os.kill(os.getpid(), signum)
            return
    if not _flag.requested:
        name = signal.Signals(signum).name
        _flag.requested, _flag.signal_name = True, name
        # The logging of Python takes locks, which the interrupted code may hold.
        text = f"{name}: a training saves its state and ends; the next SIGTERM ends the program at once\n"
        os.write(2, text.encode())


def _restore_default(signum: int) -> None:
    signal.signal(signum, signal.SIG_DFL)
