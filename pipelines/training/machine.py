"""What the machine of a worker is busy with, under the names of MLflow's system metrics, so that MLflow's pages show it under that heading.

These numbers go the way of all others, into the run's folder first: a store that is away costs none of them.
"""

import time

import psutil
import torch

PREFIX = "system/"
MEGABYTE = 1e6


class Machine:
    """Measures the machine since the last call, and the GPU of this worker, if it has one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tells = device.type == "cuda" and _asked(device) is not None
        psutil.cpu_percent()  # the first answer is of no time
        self._network, self._since, self._told = psutil.net_io_counters(), time.perf_counter(), (0.0, 0.0)

    def numbers(self) -> dict[str, float]:
        """Percent of the machine's CPUs, memory and root disk, megabytes a second to and from the network; of the GPU percent of its time (in which it computed at all,
        which is more than `flops_utilisation`), of its memory, and watts."""
        memory, network, now = psutil.virtual_memory(), psutil.net_io_counters(), time.perf_counter()
        seconds, before = max(now - self._since, 1e-9), self._network
        self._network, self._since = network, now
        received, sent = (network.bytes_recv - before.bytes_recv, network.bytes_sent - before.bytes_sent) if network and before else (0, 0)  # None: there is no network
        found = {"cpu_utilization_percentage": psutil.cpu_percent(), "system_memory_usage_megabytes": memory.used / MEGABYTE,
                 "system_memory_usage_percentage": memory.percent, "disk_usage_percentage": psutil.disk_usage("/").percent,
                 "network_receive_megabytes_per_second": received / MEGABYTE / seconds, "network_transmit_megabytes_per_second": sent / MEGABYTE / seconds}
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            found |= {"gpu_memory_usage_megabytes": (total - free) / MEGABYTE, "gpu_memory_usage_percentage": 100 * (total - free) / total}
        if self.tells:
            self._told = _asked(self.device) or self._told  # what cannot be said now, as while a driver is renewed, ends no run
            found |= {"gpu_utilization_percentage": self._told[0], "gpu_power_usage_watts": self._told[1]}
        return {PREFIX + name: value for name, value in found.items()}


def _asked(device: torch.device) -> tuple[float, float] | None:
    """Per cent of the GPU's time, and watts; None where the driver does not say it: of a part of a GPU (MIG), or without NVML."""
    import pynvml
    try:
        return float(torch.cuda.utilization(device)), torch.cuda.power_draw(device) / 1000
    except (pynvml.NVMLError, RuntimeError, ModuleNotFoundError):
        return None
