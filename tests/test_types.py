import pytest

from sdquant_cli.types import Bits, Budget, Gate, Scheduler


@pytest.mark.parametrize(
    ("text", "bits"), [("w4a8", Bits(4, 8)), ("W8A8", Bits(8, 8)), (" w2a16 ", Bits(2, 16))]
)
def test_bits_are_read_and_written(text, bits):
    assert Bits.parse(text) == bits
    assert Bits.parse(str(bits)) == bits


@pytest.mark.parametrize(
    "text",
    [
        "w5a99",
        "w-1a8",
        "w4",
        "a8w4",
        "w4a8x",
        "",
        "w9a8",
        "w1a8",
        "w4a17",
        "w４a8",
        "w4a٨",
        "w4a" + "9" * 5000,
    ],
)
def test_other_bits_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        Bits.parse(text)


def test_gates_are_read_written_and_bound_both_ways():
    gate = Gate.parse(" lpips <= 0.10 ")
    assert str(gate) == "lpips<=0.1"
    assert gate.passes(0.1)
    assert not gate.passes(0.11)
    assert Gate.parse("fid[shapes-clip]>=1e-3").passes(0.5)


@pytest.mark.parametrize(
    "text", ["psnr", "psnr=3", "psnr<3", ">=3", "psnr>=x", "psnr>=nan", "psnr>=", "", "psnr>=1_0", "psnr>=１"]
)
def test_other_gates_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "written", "bits"),
    [
        ("4.25", "4.25", 425),
        (" 4.250 ", "4.25", 425),
        ("40", "40", 4000),
        ("2.009", "2.009", 200),
        ("3MB", "3MB", 24_000_000),
        ("10 b", "10B", 80),
        ("2.5kib", "2.5KiB", 20_480),
        ("0.5GiB", "0.5GiB", 2**32),
    ],
)
def test_budgets_are_read_written_and_counted_in_bits(text, written, bits):
    budget = Budget.parse(text)
    assert str(budget) == written
    assert str(Budget.parse(written)) == written
    assert budget.bits(100) == bits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-3",
        "0",
        "0MB",
        "4,25",
        "3TB",
        "MB",
        "4.25 bits",
        "1e3",
        "nan",
        "４.25",
        "1_0",
        "9" * 5000,
        "3\u212aB",
        "1. 5",
    ],
)
def test_other_budgets_are_refused(text):
    with pytest.raises(ValueError, match="expected average weight bits"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dpm++", "dpm++"),
        ("DPMSolverMultistepScheduler", "dpm++"),
        ("HeunDiscreteScheduler", "HeunDiscreteScheduler"),
        (Scheduler.PNDM, "pndm"),
    ],
)
def test_schedulers_have_their_short_name_if_they_have_one(text, name):
    assert Scheduler.parse(text) == name


@pytest.mark.parametrize("text", ["dpm", "PNDM", "heun", "os.Scheduler", "SchedulerMixin", "", "Scheduler "])
def test_other_schedulers_are_refused(text):
    with pytest.raises(ValueError, match=r"expected one of pndm, .*HeunDiscreteScheduler"):
        Scheduler.parse(text)
