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
        self.tells = device.type == "cuda" and _tells(device)
        psutil.cpu_percent()  # the first answer is of no time
        self._network, self._since = psutil.net_io_counters(), time.perf_counter()

    def numbers(self) -> dict[str, float]:
        """Percent of the machine's CPUs, memory and root disk, megabytes a second to and from the network; of the GPU percent of its time (in which it computed at all,
        which is more than `flops_utilisation`), of its memory, and watts."""
        memory, network, now = psutil.virtual_memory(), psutil.net_io_counters(), time.perf_counter()
        seconds, before = max(now - self._since, 1e-9), self._network
        self._network, self._since = network, now
        found = {"cpu_utilization_percentage": psutil.cpu_percent(), "system_memory_usage_megabytes": memory.used / MEGABYTE,
                 "system_memory_usage_percentage": memory.percent, "disk_usage_percentage": psutil.disk_usage("/").percent}
        if network and before:  # None in a container without a network
            found |= {"network_receive_megabytes_per_second": (network.bytes_recv - before.bytes_recv) / MEGABYTE / seconds,
                      "network_transmit_megabytes_per_second": (network.bytes_sent - before.bytes_sent) / MEGABYTE / seconds}
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            found |= {"gpu_memory_usage_megabytes": (total - free) / MEGABYTE, "gpu_memory_usage_percentage": 100 * (total - free) / total}
        if self.tells:
            found |= {"gpu_utilization_percentage": float(torch.cuda.utilization(self.device)), "gpu_power_usage_watts": torch.cuda.power_draw(self.device) / 1000}
        return {PREFIX + name: value for name, value in found.items()}


def _tells(device: torch.device) -> bool:
    """Whether the driver says how busy the GPU is. A part of one (MIG) does not, nor does a driver without NVML."""
    import pynvml
    try:
        torch.cuda.utilization(device), torch.cuda.power_draw(device)
    except (pynvml.NVMLError, RuntimeError, ModuleNotFoundError):
        return False
    return True
