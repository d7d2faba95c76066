"""What one process of data-parallel training does, where it can be seen without Ray."""

import torch

from pipelines.training.worker import mean_over_ranks


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    numbers = mean_over_ranks({"loss": [1.0, 4.0][rank], "gradient_norm": 3.0, "images_per_second": [10.0, 30.0][rank]}, 2, torch.device("cpu"))
    torch.save(numbers, f"{folder}/{rank}.pt")


def test_logged_numbers_are_those_of_all_ranks(tmp_path):
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == {"loss": 2.5, "gradient_norm": 3.0, "images_per_second": 40.0}


def test_one_rank_logs_what_it_measured():
    assert mean_over_ranks({"loss": 1.5, "images_per_second": 7.0}, 1, torch.device("cpu")) == {"loss": 1.5, "images_per_second": 7.0}
