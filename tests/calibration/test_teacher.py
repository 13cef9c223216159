"""A cached teacher: the network's own answers, if they fit."""

import torch

from sdquant_cli.calibration.teacher import CachedTeacher, TeacherNetwork
from tests.calibration.toy import items, quantized


def test_a_cached_teacher_answers_as_the_network_does():
    teacher, *_ = quantized()
    data, network = items(), TeacherNetwork(teacher, ["conv"])
    cache = CachedTeacher(network, 2 * len(data))
    assert not cache.complete
    for batch in data.batches(5, torch.device("cpu")):
        cache.run(batch)
    assert cache.complete
    batch = data.batch([7, 2, 11], torch.device("cpu"))
    for part in (batch, *(batch[index] for index in batch.parts(3))):
        expected, cached = network.answer(part), cache.answer(part)
        torch.testing.assert_close(cached.prediction, expected.prediction)
        torch.testing.assert_close(cached.features["conv"], expected.features["conv"])


def test_a_cache_without_memory_keeps_nothing():
    teacher, *_ = quantized()
    data = items()
    cache = CachedTeacher(TeacherNetwork(teacher, ["conv"]), 2 * len(data), max_bytes=1000)
    for batch in data.batches(5, torch.device("cpu")):
        cache.run(batch)
    assert not cache.complete
