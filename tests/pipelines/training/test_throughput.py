"""What a run says of its speed: the share of the time that it waits for images, memory, and the share of a GPU's arithmetic."""

import os
import time

import pytest
import torch

from models.charset import Charset
from models.costs import multiply_adds
from models.footprint import products_of
from models.objectives.supervised import Supervised
from models.recognizers import build
from pipelines.training import throughput
from pipelines.training.machine import Machine
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
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 97)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 350_500)  # milliwatts
    meter = Meter(torch.device("cuda"), step_flops=31.2e12)
    assert meter.numbers(1) == {"memory_gib": 3.0}
    now[0] = 2.0
    found = meter.numbers(11)
    assert {name: value for name, value in found.items() if not name.startswith("system/")} == {
        "memory_gib": 3.0, "waiting_fraction": 0.0, "flops_utilisation": pytest.approx(10 * 31.2 / 312 / 2)}
    assert {name: value for name, value in found.items() if name.startswith("system/gpu_")} == {
        "system/gpu_memory_usage_megabytes": 20_000, "system/gpu_memory_usage_percentage": 25.0, "system/gpu_utilization_percentage": 97.0, "system/gpu_power_usage_watts": 350.5}


def test_the_machine_is_measured_under_the_names_of_mlflow_s_system_metrics():
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    machine = Machine(CPU)
    began = time.process_time()
    while time.process_time() - began < 0.3:  # a busy core
        pass
    found = machine.numbers()
    monitor = CPUMonitor()
    monitor.collect_metrics()
    assert set(monitor.metrics) <= {name.removeprefix("system/") for name in found}
    assert found["system/cpu_utilization_percentage"] > 5 / (os.cpu_count() or 1)
    assert 0 < found["system/system_memory_usage_percentage"] < 100 and all(value >= 0 for value in found.values())


def test_a_gpu_whose_driver_does_not_tell_costs_two_numbers(monkeypatch):
    import pynvml

    def refused(device):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 4))  # as of a part of a GPU, which is not at hand
    monkeypatch.setattr(torch.cuda, "utilization", refused)
    assert {name for name in Machine(torch.device("cuda")).numbers() if "gpu" in name} == {"system/gpu_memory_usage_megabytes", "system/gpu_memory_usage_percentage"}


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
