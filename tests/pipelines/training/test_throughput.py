"""What a run says of its speed: the share of the time that it waits for images, memory, and the share of a GPU's arithmetic."""

import pytest
import torch

from models.charset import Charset
from models.costs import multiply_adds
from models.footprint import products_of
from models.objectives.supervised import Supervised
from models.recognizers import build
from pipelines.training import throughput
from pipelines.training.throughput import Meter, memory, peak_of

CPU = torch.device("cpu")


def test_waiting_is_the_share_of_the_time_between_two_logged_steps_that_passes_inside_the_iterator(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])

    def slow(seconds):
        for number in range(4):
            now[0] += seconds
            yield number
    meter = Meter(CPU)
    images = meter.waiting(slow(3.0))
    assert next(images) == 0
    assert list(meter.numbers(1)) == ["memory_gib"]  # what starts a run is not measured
    for number in (1, 2):
        assert next(images) == number
        now[0] += 1.0  # a step computes
    assert meter.numbers(3)["waiting_fraction"] == pytest.approx(6 / 8)
    now[0] += 5.0
    assert meter.numbers(4)["waiting_fraction"] == 0.0


def test_items_pass_unchanged_and_end():
    assert list(Meter(CPU).waiting(iter([3, 1, 2]))) == [3, 1, 2]


def test_memory_of_a_process_is_what_it_held_at_most():
    before = memory(CPU)
    held = torch.ones(64 << 20, dtype=torch.uint8)
    del held
    assert memory(CPU) >= before > 10 << 20
    assert memory(CPU) - before < 1 << 30


def test_utilisation_is_the_products_of_a_step_over_what_the_gpu_could_have_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")  # no GPU needed: a name and a clock
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 30)
    meter = Meter(torch.device("cuda"), step_flops=31.2e12)
    assert meter.numbers(1) == {"memory_gib": 3.0}
    now[0] = 2.0
    assert meter.numbers(11) == {"memory_gib": 3.0, "waiting_fraction": 0.0, "flops_utilisation": pytest.approx(10 * 31.2 / 312 / 2)}


@pytest.mark.parametrize("name, peak", [("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12),
                                        ("NVIDIA H200", 989e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA A10G", 70e12),
                                        ("NVIDIA RTX A4000", None), ("NVIDIA RTX A1000", None), ("NVIDIA H100 NVL", None), ("NVIDIA GeForce RTX 4090", 165.2e12),
                                        ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
                                        ("Tesla T4", None)])
def test_a_gpu_is_known_by_its_name(name, peak):
    assert peak_of(name) == peak


def test_a_step_of_training_takes_about_three_times_the_products_of_reading():
    recognizer = build("crnn_tiny", Charset.named("36"))
    reading = multiply_adds(recognizer, torch.empty(1, 3, 32, 100))
    assert 2.5 < products_of(Supervised(recognizer), {"labeled": 8}) / (8 * reading) < 3.0
