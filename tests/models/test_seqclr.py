"""SeqCLR: the loss against a plain re-implementation, and the facts that any honest implementation shows."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import SeqCLR
from models.objectives.contrast import contrast
from models.objectives.distributed import gather
from models.recognizers import build


def images(n: int, seed: int = 0) -> Tensor:
    """(n, 3, 32, 100) float64 of smooth noise in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 25, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (32, 100), mode="bilinear") * 2 - 1


def batch_of(first: Tensor, second: Tensor) -> Batch:
    return Batch(unlabeled=Part(torch.empty(0), [str(i) for i in range(len(first))], views=(first, second)))


def objective(name: str = "crnn_tiny", seed: int = 0, **constants) -> SeqCLR:
    """On a small float64 recognizer in eval mode, where no image depends on the others of its batch."""
    torch.manual_seed(seed)
    return SeqCLR(build(name, Charset.named("36")), projection_width=32, **constants).double().eval()


def plain_loss(instances: list[Tensor], partners: list[int], temperature: float) -> float:
    """The published formula, one term and one pair at a time."""
    def similarity(u: Tensor, v: Tensor) -> float:
        return (u @ v).item() / (math.sqrt((u @ u).item()) * math.sqrt((v @ v).item()))

    total = 0.0
    for row, partner in enumerate(partners):
        positive = math.exp(similarity(instances[row], instances[partner]) / temperature)
        others = sum(math.exp(similarity(instances[row], other) / temperature)
                     for column, other in enumerate(instances) if column != row)
        total -= math.log(positive / others)
    return total / len(partners)


@pytest.mark.parametrize("mapping, temperature", [("all", 0.1), ("window", 0.1), ("frame", 0.5)])
def test_equals_a_plain_reimplementation(mapping, temperature):
    model = objective(mapping=mapping, temperature=temperature)
    first, second = images(3, seed=1), images(3, seed=2)

    loss = model(batch_of(first, second)).total

    views = []
    for view in (first, second):
        frames = model.head(model.recognizer.encode(view))  # (3, 25, 32)
        spans = {"all": [range(25)], "window": [range(5 * w, 5 * w + 5) for w in range(5)],
                 "frame": [[t] for t in range(25)]}[mapping]
        views.append([sum(image[t] for t in span) / len(span) for image in frames for span in spans])
    size = len(views[0])
    partners = [*range(size, 2 * size), *range(size)]
    assert loss.item() == pytest.approx(plain_loss([*views[0], *views[1]], partners, temperature), abs=1e-10)


def test_random_features_give_the_logarithm_of_the_number_of_candidates():
    features = torch.randn(2 * 16 * 5, 8192, generator=torch.Generator().manual_seed(0))
    loss, matched = contrast(features, temperature=0.1)
    assert loss.item() == pytest.approx(math.log(2 * 16 * 5 - 1), abs=0.03)
    assert matched < 0.1


@pytest.mark.parametrize("mapping, instances", [("all", 1), ("window", 5), ("frame", 25)])
def test_an_untrained_encoder_starts_near_chance(mapping, instances):
    loss = objective(mapping=mapping)(batch_of(images(8, seed=1), images(8, seed=2))).total
    assert loss.item() == pytest.approx(math.log(2 * 8 * instances - 1), rel=0.1)


def test_instances_that_are_all_equal_give_exactly_the_logarithm_of_the_number_of_candidates():
    loss, _ = contrast(torch.ones(2 * 6, 4, dtype=torch.float64), temperature=0.1)
    assert loss.item() == pytest.approx(math.log(2 * 6 - 1), abs=1e-12)


def test_partners_alone_in_their_direction_are_told_apart():
    eye = torch.eye(6, dtype=torch.float64)
    loss, matched = contrast(torch.cat([eye, eye]), temperature=0.1)
    assert matched == 1
    assert loss.item() == pytest.approx(math.log(1 + 10 * math.exp(-10)), rel=1e-9)


def test_identical_views_lose_less_than_different_images():
    model = objective(head="none").train()
    same = model(batch_of(images(8), images(8))).total
    different = model(batch_of(images(8), images(8, seed=1))).total
    assert same < different - 0.1


def test_the_order_of_the_images_does_not_matter_but_the_pairing_does():
    model = objective(head="none").train()
    first, second = images(6, seed=1), images(6, seed=1) + 0.1 * images(6, seed=2)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    loss = model(batch_of(first, second)).total
    assert model(batch_of(first[order], second[order])).total.item() == pytest.approx(loss.item(), abs=1e-12)
    assert model(batch_of(second, first)).total.item() == pytest.approx(loss.item(), abs=1e-12)
    assert model(batch_of(first, second[order])).total > loss + 0.1


def test_the_temperature_divides_the_similarity():
    instances = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    partners = [4, 5, 6, 7, 0, 1, 2, 3]
    for temperature in (0.1, 1.0):
        loss, _ = contrast(instances, temperature)
        assert loss.item() == pytest.approx(plain_loss(list(instances), partners, temperature), abs=1e-10)


def test_the_length_of_a_vector_does_not_matter():
    instances = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.arange(1, 9, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(contrast(instances, 0.1)[0], contrast(instances * lengths, 0.1)[0])


def test_mixed_precision_computes_the_similarities_in_float32():
    instances = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    expected, _ = contrast(instances, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = contrast(instances, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
@pytest.mark.parametrize("head", ["none", "mlp", "bilstm"])
def test_every_parameter_that_asks_for_a_gradient_gets_one(name, head):
    model = objective(name, head=head).train()
    model(batch_of(images(4, seed=1), images(4, seed=2))).total.backward()
    for parameter_name, parameter in model.named_parameters():
        frozen = parameter_name.startswith("recognizer.decoder.")
        assert parameter.requires_grad != frozen, parameter_name
        assert (parameter.grad is None) == frozen, parameter_name


def test_the_head_has_the_width_it_is_given():
    model = objective(head="bilstm")
    frames = model.recognizer.encode(images(2))
    assert frames.shape == (2, 25, 128)
    assert model.head(frames).shape == (2, 25, 32)
    assert objective(head="mlp").head(frames).shape == (2, 25, 32)
    assert objective(head="none").head(frames) is frames


def test_building_it_leaves_the_recognizer_as_it_was():
    recognizer = build("crnn_tiny", Charset.named("36"))
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    SeqCLR(recognizer)
    assert recognizer.training
    for name, value in recognizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_lowers_its_own_loss_by_half():
    torch.manual_seed(0)
    model = SeqCLR(build("crnn_tiny", Charset.named("36")), projection_width=32)
    first = images(8, seed=1).float()
    batch = batch_of(first, first + 0.2 * images(8, seed=2).float())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(model(batch).total)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("constants, message", [
    ({"windows": 0}, "windows above 0, found 0"),
    ({"temperature": 0.0}, "temperature above 0, found 0.0"),
    ({"windows": 26}, "found 26 windows of 25 frames"),
])
def test_refuses_constants_that_make_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        objective(**constants)


def test_one_process_gathers_its_own_rows():
    rows = torch.ones(3, 2)
    everyone, start = gather(rows)
    assert everyone is rows and start == 0


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = objective()
    mine = slice(3 * rank, 3 * rank + 3)
    parallel = DistributedDataParallel(model)
    losses = parallel(batch_of(images(6, seed=1)[mine], images(6, seed=2)[mine]))
    losses.total.backward()
    torch.save({"loss": losses.total.detach(), "matched": losses.named["matched_fraction"],
                "gradients": {name: p.grad for name, p in model.named_parameters() if p.requires_grad}},
               f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_half_the_batch_each_are_one_rank_with_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]

    model = objective()
    losses = model(batch_of(images(6, seed=1), images(6, seed=2)))
    losses.total.backward()

    assert ranks[0]["loss"] != ranks[1]["loss"]  # each is the mean over the rank's own instances
    assert (ranks[0]["loss"] + ranks[1]["loss"]) / 2 == pytest.approx(losses.total.item(), abs=1e-6)
    assert (ranks[0]["matched"] + ranks[1]["matched"]) / 2 == pytest.approx(losses.named["matched_fraction"].item())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 0, name
            for rank in ranks:
                torch.testing.assert_close(rank["gradients"][name], parameter.grad, atol=1e-12, rtol=1e-6)


def test_before_the_sequence_stage_that_stage_rests_and_its_loss_is_that_of_the_visual_features():
    model = objective(mapping="frame", features="visual", head="none")
    first, second = images(2, seed=1), images(2, seed=2)
    loss = model(batch_of(first, second)).total
    frames = [frame for view in (first, second) for frame in model.recognizer.visual(view).flatten(0, 1)]  # 2 images of 25 frames each
    assert loss.item() == pytest.approx(plain_loss(frames, [*range(50, 100), *range(50)], 0.1), abs=1e-10)
    loss.backward()
    assert all(not parameter.requires_grad for parameter in model.recognizer.sequence.parameters())
    assert all(parameter.grad is not None for parameter in model.recognizer.encoder.parameters())


def test_two_batches_have_their_own_statistics():
    """In training mode: one pass of both views, and a pass of each, differ by batch normalization alone."""
    first, second = images(6, seed=1), images(6, seed=2)
    one, two = (objective(mapping="frame", head="none", batches=batches).train() for batches in ("one", "two"))
    frames = torch.cat([objective(mapping="frame").train().recognizer.encode(view) for view in (first, second)])  # fresh running statistics do not matter
    expected = contrast(frames.flatten(0, 1), 0.1)[0]
    assert two(batch_of(first, second)).total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert one(batch_of(first, second)).total.item() != pytest.approx(expected.item(), abs=1e-6)
    assert one.eval()(batch_of(first, second)).total.item() != two.eval()(batch_of(first, second)).total.item()  # what they remember differs, too


def test_features_whose_columns_the_sequence_stage_makes_are_refused():
    with pytest.raises(ValueError, match="seqclr expects features: contextual of vit_tiny, whose columns are made by the sequence stage"):
        SeqCLR(build("vit_tiny", Charset.named("36")), features="visual")
    assert SeqCLR(build("vit_tiny", Charset.named("36"))).instances == 5
