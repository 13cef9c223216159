"""Results at several numbers of threads."""

import torch


def by_threads(compute):
    """What a function returns with 1, 2 and 3 threads of torch's pool, which the kernels share."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            yield compute()
    finally:
        torch.set_num_threads(before)
