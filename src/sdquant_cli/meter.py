"""Time and peak memory of a piece of work, kept over interruptions. Standard library only."""

import ctypes
import time
from pathlib import Path

from .sealed import read_json, write_json

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_peaks: list[int] = []  # bytes, in each interval between two resets of the kernel's peak


def memory(field: str) -> int | None:
    """Return the bytes of a field of /proc/self/status, such as VmRSS; None on systems other than Linux."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


class Meter:
    """Seconds, and the largest resident set of this process, since the meter was created.

    `save` writes them to a file, and a later meter of the same file continues from there, or from zero if
    the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._began, self._first = file, time.perf_counter(), _reset_peak()
        before = read_json(file)
        self.resumed = before is not None
        self._before = before or {}

    @property
    def seconds(self) -> float:
        """Seconds of this run and of the earlier ones that were saved."""
        return round(self._before.get("seconds", 0.0) + time.perf_counter() - self._began, 3)

    @property
    def peak_memory(self) -> int | None:
        """Bytes; None where the platform cannot report the peak of a part of a process."""
        peak = memory("VmHWM")
        if self._first is None or peak is None:
            return None
        return max(self._before.get("peak_memory") or 0, peak, *_peaks[self._first :])

    def save(self) -> None:
        """Write seconds and peak to the file."""
        write_json(self._file, {"seconds": self.seconds, "peak_memory": self.peak_memory})


def _reset_peak() -> int | None:
    """Reset the kernel's peak of the resident set, keeping its value for meters that are running.

    Returns the number of the interval that begins; None where the peak cannot be reset.
    """
    peak = memory("VmHWM")
    if peak is None:
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps freed memory, which would count into the new peak
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    _peaks.append(peak)
    return len(_peaks)
