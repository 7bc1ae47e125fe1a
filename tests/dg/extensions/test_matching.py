"""Matching a teacher: the loss against its formula, what is not trained, and runs that are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toolkit
from toolkit import recipe
from toolkit.dg import objectives
from toolkit.dg.batches import Batch
from toolkit.dg.domains import Domains
from toolkit.dg.draws import Draws
from toolkit.dg.extensions.matching import Matching
from toolkit.dg.extensions.teaching import TeacherRun, teacher_plugin
from toolkit.dg.finetuning import TrainingData, finetune
from toolkit.dg.pictures import checked_pictures
from toolkit.dg.plan import TrainingPlan
from toolkit.dg.trainer import extended_loss
from toolkit.errors import BadInput, RecipeError
from toolkit.models.merge import Merging
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.progress import silent
from toolkit.records import Cut, Merge, TrainingHistory
from toolkit.resolve import recipe_of

ARGS = {"patch_size": 8, "depth": 4, "embed_dim": 24, "num_heads": 3}
CLASSES = ("a", "b")
CUTS = (Cut("blocks.0.attn", "head", (1,)), Cut("blocks.2.mlp", "mlp", tuple(range(40))))
FINETUNE = {"objective": "matching", "epochs": 2, "batch_size": 8, "evaluations": 2, "learning_rate": 3e-3}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def dense() -> Model:
    model = toolkit.load("deit_tiny_patch16_224", CLASSES, weights="none", image_size=16, args=ARGS)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def slim(dense: Model) -> Model:
    return remove(dense, CUTS).model


def run_of(student: Model, teacher: Model, scratch: Path = Path(), steps: int = 4) -> TeacherRun:
    return TeacherRun(student, teacher, Draws((6, 6), (3, 2), 0), "images", steps, scratch)


def extension_of(run: TeacherRun, **settings: Any) -> Matching:
    plugin = teacher_plugin(recipe.Finetune(objective="matching", matching=settings))  # type: ignore[call-arg]
    assert plugin is not None
    extension = plugin.extension(run)
    assert isinstance(extension, Matching)
    return extension


def tokens_after_blocks(model: Model, images: Tensor) -> list[Tensor]:
    """By the definition of timm's forward pass: [batch, tokens, width] after each block"""
    module: Any = model.module
    x, result = module.norm_pre(module._pos_embed(module.patch_embed(images))), []
    sizes = None
    for block in module.blocks:
        x, sizes = block(x, sizes)
        result.append(x)
    return result


def mergings(model: Model, images: Tensor) -> dict[int, Merging]:
    """How each block merges tokens, by running the model block by block."""
    module: Any = model.module
    x, sizes, result = module.norm_pre(module._pos_embed(module.patch_embed(images))), None, {}
    for index, block in enumerate(module.blocks):
        if block.merge is not None:
            attended = block.norm1(x)
            result[index] = block.merge(attended, block.attn.class_attention(attended), sizes)
        x, sizes = block(x, sizes)
    return result


def images_of(seed: int = 0, size: int = 16) -> tuple[Batch, ...]:
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Batch(images[:3], torch.full((3,), -1)), Batch(images[3:], torch.full((2,), -1))


def loss_of(extension: Matching, model: Model, batches: tuple[Batch, ...], step: int = 0) -> Tensor:
    settings = recipe.Finetune(objective="matching")
    plan = TrainingPlan(settings, objectives.build(settings), 0, Path("unused"), 0, (extension,))
    return extended_loss(plan, step, model.module, batches)


def squared_error(one: Tensor, other: Tensor) -> Tensor:
    """Of layer norms by hand: the mean over all elements."""
    parts = [
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() for x in (one, other)
    ]
    return ((parts[0] - parts[1]) ** 2).mean()


def test_the_loss_equals_its_formula(dense: Model, slim: Model) -> None:
    extension = extension_of(
        run_of(slim, dense), temperature=3, class_weight=0.7, patch_weight=0.3, random_convolution=0, mixup=0
    )
    assert extension.name == "logits with class and patch tokens"
    batches = images_of()
    images = torch.cat([batch.images for batch in batches])
    teacher, student = (model.module(images).div(3).softmax(-1) for model in (dense, slim))
    by_hand = 9 * (teacher * (teacher / student).log()).sum() / 5
    of_teacher, of_student = tokens_after_blocks(dense, images), tokens_after_blocks(slim, images)
    classes = [squared_error(of_teacher[block][:, 0], of_student[block][:, 0]) for block in (1, 2, 3)]
    patches = [squared_error(of_teacher[block][:, 1:], of_student[block][:, 1:]) for block in (1, 2)]
    by_hand = by_hand + 0.7 * sum(classes) / 3 + 0.3 * sum(patches) / 2
    loss = loss_of(extension, slim, batches)
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert all(parameter.grad is None for parameter in dense.module.parameters())
    assert all(parameter.grad is not None for _, block in slim.blocks for parameter in block.parameters())


def test_merged_tokens_are_compared_with_the_teacher_s_merged_by_the_same_matrices() -> None:
    dense = toolkit.load("deit_tiny_patch16_224", CLASSES, weights="none", image_size=32, args=ARGS)
    merged = with_tokens(dense, (Merge(0, 13), Merge(2, 10)), trim_last_block=True)
    student = remove(merged, CUTS).model
    extension = extension_of(run_of(student, dense), class_weight=0.7, patch_weight=0.3, random_convolution=0, mixup=0)
    assert extension.name == "logits with class and patch tokens"
    batches = images_of(size=32)
    images = torch.cat([batch.images for batch in batches])
    of_teacher, of_student = tokens_after_blocks(dense, images), tokens_after_blocks(student, images)
    assert [tokens.shape[1] for tokens in of_student] == [13, 13, 10, 1]
    merging = mergings(student, images)
    teacher, logits = (model.module(images).div(5).softmax(-1) for model in (dense, student))
    by_hand = 25 * (teacher * (teacher / logits).log()).sum() / 5
    classes = [squared_error(of_teacher[block][:, 0], of_student[block][:, 0]) for block in (1, 2, 3)]
    expected = [merging[0].apply(of_teacher[1]), merging[2].apply(merging[0].apply(of_teacher[2]))]
    patches = [squared_error(one[:, 1:], other[:, 1:]) for one, other in zip(expected, of_student[1:3], strict=True)]
    by_hand = by_hand + 0.7 * sum(classes) / 3 + 0.3 * sum(patches) / 2
    torch.testing.assert_close(loss_of(extension, student, batches), by_hand)
    with pytest.raises(BadInput, match="block 3 of the student cannot be compared"):
        extension_of(run_of(student, dense), patch_blocks=[3])


def test_a_student_equal_to_its_teacher_has_no_loss_on_changed_images(dense: Model) -> None:
    student = dense.copied()
    extension = extension_of(run_of(student, dense))
    assert loss_of(extension, student, images_of()).item() == pytest.approx(0, abs=1e-6)


def test_images_are_changed_by_seed_and_step_only(dense: Model, slim: Model) -> None:
    extension = extension_of(run_of(slim, dense), random_convolution=0.5)
    changed = [torch.cat([batch.images for batch in extension.batches(step, images_of())]) for step in (0, 1, 0)]
    assert torch.equal(changed[0], changed[2])
    assert not torch.equal(changed[0], changed[1])
    plain = extension_of(run_of(slim, dense), random_convolution=0, mixup=0)
    assert torch.equal(plain.batches(0, images_of())[1].images, images_of()[1].images)


def test_blocks_are_matched_by_their_index_in_the_dense_model(dense: Model) -> None:
    student = remove(dense, (Cut("blocks", "block", (1,)),)).model
    settings = {"temperature": 1.0, "random_convolution": 0, "mixup": 0, "patch_weight": 0}
    extension = extension_of(run_of(student, dense), class_blocks=[2, 3], **settings)
    assert extension.name == "logits with class tokens"
    batches = images_of()
    images = torch.cat([batch.images for batch in batches])
    of_teacher, of_student = tokens_after_blocks(dense, images), tokens_after_blocks(student, images)
    teacher, logits = (model.module(images).softmax(-1) for model in (dense, student))
    by_hand = (teacher * (teacher / logits).log()).sum() / 5
    pairs = [(of_teacher[2], of_student[1]), (of_teacher[3], of_student[2])]
    by_hand = by_hand + sum(squared_error(one[:, 0], other[:, 0]) for one, other in pairs) / 2
    torch.testing.assert_close(loss_of(extension, student, batches), by_hand)
    with pytest.raises(BadInput, match="block 1 of the student cannot be compared") as raised:
        extension_of(run_of(student, dense), class_blocks=[1])
    assert "some of 0, 2, 3" in raised.value.hint


def test_a_student_with_other_residual_channels_matches_logits_only(dense: Model) -> None:
    student = remove(dense, (Cut("residual", "embed", tuple(range(8))),)).model
    head = student.module.get_submodule("head").weight.detach().clone()  # type: ignore[operator]
    extension = extension_of(run_of(student, dense))
    assert extension.name == "logits only"
    assert extension.frozen == ()
    assert torch.equal(student.module.get_submodule("head").weight, head)  # type: ignore[arg-type]
    loss_of(extension, student, images_of()).backward()


def test_a_teacher_of_another_image_size_sees_resized_images(dense: Model) -> None:
    small = toolkit.load("deit_tiny_patch16_224", CLASSES, weights="none", image_size=8, args=ARGS)
    extension = extension_of(run_of(small, dense))
    assert extension.name == "logits with class tokens"
    assert torch.isfinite(loss_of(extension, small, images_of(size=8)))


def trained(
    model: Model, dense: Model, data: TrainingData, scratch: Path, progress: Callable[..., None] = silent, **own: Any
) -> tuple[Model, TrainingHistory]:
    settings = recipe_of({"finetune": {**FINETUNE, "matching": own}, "data": {"workers": 0}})
    return finetune(model.copied(), data, settings, dense.copied(), scratch / "checkpoint.pt", progress)


def killed_at(step: int) -> Callable[..., None]:
    def progress(done: int, total: int, message: str = "") -> None:
        if done == step:
            raise Killed

    return progress


def test_classifier_and_last_norm_are_the_teacher_s_and_nothing_else_stands_still(
    dense: Model, slim: Model, three_domains: Domains, tmp_path: Path
) -> None:
    with torch.no_grad():
        slim.module.get_submodule("head").weight.zero_()  # type: ignore[operator, union-attr]
    before = slim.copied().module.state_dict()
    result, history = trained(slim, dense, TrainingData(three_domains), tmp_path)
    after = result.module.state_dict()
    kept = {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    for name, tensor in after.items():
        expected = dense.module.state_dict()[name] if name in kept else before[name]
        assert torch.equal(tensor, expected) == (name in kept), name
    assert all(parameter.requires_grad for parameter in result.module.parameters())
    assert history.objective == "matching, logits with class and patch tokens and weight averaging"
    assert history.selected_step == history.steps, "the last state is kept, whatever its accuracy"
    last = history.evaluations[-1]
    assert last.agreement.keys() == last.accuracy.keys()
    losses = [evaluation.train_loss for evaluation in history.evaluations]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("views", [0, 1])
def test_a_killed_run_ends_with_the_same_numbers(
    dense: Model, slim: Model, three_domains: Domains, tmp_path: Path, views: int
) -> None:
    own = {"stored_views": views}
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    expected, history = trained(slim, dense, TrainingData(three_domains), tmp_path / "whole", **own)
    with pytest.raises(Killed):
        trained(slim, dense, TrainingData(three_domains), tmp_path / "killed", killed_at(7), **own)
    resumed, again = trained(slim, dense, TrainingData(three_domains), tmp_path / "killed", **own)
    assert [each.train_loss for each in again.evaluations] == [each.train_loss for each in history.evaluations]
    tensors = expected.module.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in resumed.module.state_dict().items())


def test_pictures_are_mixed_in_or_all_there_is(
    dense: Model, slim: Model, three_domains: Domains, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(three_domains.training_images()["art"][:6]):
        image.decode().rotate(90).save(tmp_path / "pictures" / f"{index}.png")
    pictures, _ = checked_pictures(str(tmp_path / "pictures"), recipe.Data(), 0)
    plain = trained(slim, dense, TrainingData(three_domains), tmp_path)[1]
    mixed = trained(slim, dense, TrainingData(three_domains, pictures), tmp_path)[1]
    assert mixed.evaluations[-1].train_loss != plain.evaluations[-1].train_loss
    _, alone = trained(slim, dense, TrainingData(None, pictures), tmp_path)
    assert alone.evaluations[-1].accuracy == {}
    assert alone.evaluations[-1].agreement.keys() == {"pictures"}


@pytest.mark.usefixtures("three_domains")
def test_what_contradicts_matching_is_refused(dense: Model, slim: Model, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    with pytest.raises(RecipeError, match=r"stored_views = 2 .* and finetune.matching.mixup = 0.4 .* exclusive"):
        recipe_of({"finetune": {"objective": "matching", "matching": {"stored_views": 2, "mixup": 0.4}}})
    with pytest.raises(BadInput, match="learns from a teacher, and there is none") as raised:
        toolkit.finetune(slim, folder, hold_out="sketch", settings={"objective": "matching"})
    assert "teacher" in raised.value.hint
    other = toolkit.load("deit_tiny_patch16_224", ["a", "c"], weights="none", image_size=16, args=ARGS)
    with pytest.raises(BadInput, match="the teacher has the classes"):
        toolkit.finetune(slim, folder, hold_out="sketch", teacher=other, settings={"objective": "matching"})
    with pytest.raises(BadInput, match="the objective erm needs labelled images"):
        toolkit.finetune(slim, None, teacher=dense)
    with pytest.raises(BadInput, match="hold_out: there are no domains without `data`"):
        toolkit.finetune(slim, None, teacher=dense, hold_out="photo")


def test_the_python_api_takes_a_plain_folder_of_pictures(
    dense: Model, slim: Model, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder({"x": 6, "y/z": 6})
    settings = {"objective": "matching", "matching": {"images": str(folder)}, "batch_size": 4, "learning_rate": 1e-3}
    result = toolkit.finetune(slim, None, teacher=dense, epochs=1, settings=settings)
    assert result.info.made_from == slim.identified().info.weights_sha256
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = [model.module(images) for model in (dense, slim, result)]
    assert (logits[2] - logits[0]).norm() < (logits[1] - logits[0]).norm()
