"""What one process of data-parallel training does, where it can be seen without Ray."""

import pytest
import torch

from models.batch import Batch, Part
from pipelines.errors import BadInput
from pipelines.reading.weights import save_recognizer
from pipelines.training.distributed import check_batch_normalization
from pipelines.training.loop import build_optimizer
from pipelines.training.recipe import parse_recipe
from pipelines.training.worker import build_objective, build_rates, mean_over_ranks, told_by_first, trained_parts


def recipe(**changes):
    return parse_recipe({"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "data": {},
                         "training": {"steps": 10}} | changes)


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    numbers = mean_over_ranks({"loss": [1.0, 4.0][rank], "gradient_norm": 3.0, "images_per_second": [10.0, 30.0][rank]}, 2, torch.device("cpu"))
    torch.save({**numbers, "told": told_by_first(rank == 0, 2, torch.device("cpu"))}, f"{folder}/{rank}.pt")


def test_logged_numbers_are_those_of_all_ranks(tmp_path):
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == {"loss": 2.5, "gradient_norm": 3.0, "images_per_second": 40.0,
                                                                               "told": True}


def test_one_rank_logs_what_it_measured():
    assert mean_over_ranks({"loss": 1.5, "images_per_second": 7.0}, 1, torch.device("cpu")) == {"loss": 1.5, "images_per_second": 7.0}


def test_an_objective_that_needs_another_recognizer_is_one_sentence():
    with torch.device("meta"), pytest.raises(BadInput) as caught:
        build_objective(recipe(objective={"name": "semimtr"}))
    assert str(caught.value) == ("objective: semimtr expects a recognizer that reads by vision, by language and by their fusion, "
                                 "found crnn_tiny with a ctc decoder: use recognizer abinet")


@pytest.mark.parametrize("optimizer, rates", [
    ({"schedule": "constant"}, [1.0] * 10),
    ({"schedule": "step"}, [1.0] * 6 + [0.1] * 2 + [0.01] * 2),
    ({"schedule": "step", "decay_at": [0.5], "decay_factor": 0.5}, [1.0] * 5 + [0.5] * 5),
    ({"schedule": "one_cycle", "initial_division": 4.0}, [0.25]),
])
def test_the_rates_of_a_recipe(optimizer, rates):
    options = recipe(optimizer={"learning_rate": 1.0, **optimizer}).optimizer
    trained = build_optimizer([torch.nn.Parameter(torch.zeros(()))], name="adam", learning_rate=1.0, weight_decay=0.0)
    schedule = build_rates(trained, options, 10)
    seen = []
    for _ in rates:
        seen.append(trained.param_groups[0]["lr"])
        trained.step()
        if schedule is not None:
            schedule.step()
    assert seen == pytest.approx(rates)


def test_what_an_objective_warns_of_is_one_line_on_stderr(capsys):
    recipe = parse_recipe({"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr", "alignment": "frames"}, "data": {},
                           "training": {"steps": 1}})
    build_objective(recipe)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("textray: warning: objective: ccr compares frame by frame, but its strong view moves the image")


def test_synchronised_batch_normalization_on_cpus_is_one_sentence(monkeypatch):
    from pipelines.training.crew import Job
    from pipelines.training.worker import _Worker
    wanted = recipe(training={"steps": 10, "workers": 2, "sync_batchnorm": True})
    worker = _Worker(Job({}, {}, "runs/try"), wanted, None)
    objective = build_objective(wanted)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(BadInput, match="training.sync_batchnorm: expected workers on GPUs, found CPUs"):
        check_batch_normalization(wanted)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    check_batch_normalization(wanted)
    worker.device, worker.world = torch.device("cpu"), 1
    assert worker._synchronised(objective) is objective  # one process has all statistics
    worker.device, worker.world = torch.device("cuda"), 2
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in worker._synchronised(objective).modules())


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_a_frozen_encoder_rests_in_training_too(name):
    """No gradient, no other statistic; the decoder learns."""
    torch.manual_seed(0)
    objective = build_objective(recipe(recognizer={"name": name}, training={"steps": 10, "freeze": "encoder"})).train()
    recognizer = objective.recognizer
    before = {key: value.clone() for key, value in recognizer.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in objective.parameters() if parameter.requires_grad], lr=0.1)
    view = torch.rand(4, 3, 32, 100) * 2 - 1
    targets = recognizer.decoder.encode(["on", "off", "in", "out"])
    objective(Batch(Part(view, list("abcd"), ["on", "off", "in", "out"], targets, (view,)))).total.backward()
    optimizer.step()
    changed = {key.partition(".")[0] for key, value in recognizer.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"decoder"} and recognizer.decoder.training
    assert trained_parts(objective) == ["encoder", "sequence", "decoder"]  # what rests was trained before


def test_nothing_left_to_train_is_one_sentence():
    with pytest.raises(BadInput, match="training.freeze: expected an objective that trains the decoder, found simclr, which leaves nothing to train"):
        build_objective(recipe(objective={"name": "simclr"}, training={"steps": 10, "freeze": "encoder"}))


@pytest.mark.parametrize(("parts", "sentence"), [(["encoder"], "expected a start whose sequence is trained, found start, which leaves it out: pretrain with features"),
                                                 (["encoder", "sequence", "decoder"], None)])
def test_a_frozen_start_is_trained_but_for_the_decoder_which_begins_anew(tmp_path, parts, sentence):
    torch.manual_seed(0)
    start = build_objective(recipe()).recognizer
    folder = save_recognizer(tmp_path, start, {"trained": parts})
    torch.manual_seed(1)
    frozen = recipe(training={"steps": 10, "freeze": "encoder"}, initialize_from="start")
    if sentence:
        with pytest.raises(BadInput, match=sentence):
            build_objective(frozen, folder)
        return
    made = build_objective(frozen, folder).recognizer
    assert torch.equal(next(made.encoder.parameters()), next(start.encoder.parameters()))
    assert not torch.equal(made.decoder.classifier.weight, start.decoder.classifier.weight)
