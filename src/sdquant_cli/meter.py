"""What a piece of work takes: seconds, and memory of the process it runs in. Standard library only."""

import ctypes
import time
from pathlib import Path

from .sealed import read_json, write_json

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_peaks: list[int] = []  # bytes; of every stretch between two resets of the kernel's mark


def memory(field: str) -> int | None:
    """Bytes of a field of /proc/self/status, such as VmRSS; None elsewhere than on Linux."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


class Meter:
    """Seconds, and the largest resident set of this process, since it was made.

    `save` leaves them in a file, and a meter of the same file goes on from there; from nothing, if that
    is damaged.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._began, self._first = file, time.perf_counter(), _new_stretch()
        before = read_json(file)
        self.resumed = before is not None
        self._before = before or {}

    @property
    def seconds(self) -> float:
        return round(self._before.get("seconds", 0.0) + time.perf_counter() - self._began, 3)

    @property
    def peak_memory(self) -> int | None:
        """Bytes; None where the platform does not tell the peak of a part of a process."""
        mark = memory("VmHWM")
        if self._first is None or mark is None:
            return None
        return max(self._before.get("peak_memory") or 0, mark, *_peaks[self._first :])

    def save(self) -> None:
        write_json(self._file, {"seconds": self.seconds, "peak_memory": self.peak_memory})


def _new_stretch() -> int | None:
    """Reset the kernel's mark of the largest resident set, keeping what it said for the meters at work.

    Returns the number of the stretch that begins; None where the mark cannot be reset.
    """
    mark = memory("VmHWM")
    if mark is None:
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps what is freed: the peak would be that of the work before
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    _peaks.append(mark)
    return len(_peaks)
