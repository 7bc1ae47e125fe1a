"""Image classifiers of transformers, from a folder that `save_pretrained` wrote."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from toolkit import recipe
from toolkit.errors import BadInput, RecipeError, UnsupportedModel
from toolkit.models.architectures import Architecture, Built, Parts
from toolkit.models.architectures.huggingface_vit import create
from toolkit.models.architectures.huggingface_vit.canonical import BACKBONES, canonicalise, is_classifier
from toolkit.models.architectures.huggingface_vit.classifier import CLASSIFIERS, HeadwiseClassifier
from toolkit.models.huggingface_folder import CONFIG, config_of, folder_of, weight_files
from toolkit.models.patches import check_size
from toolkit.models.weight_file import read_all, weights_files
from toolkit.models.weight_formats import format_of
from toolkit.records import ModelInfo, Setting

PREFIX = "transformers."
"""Start of the names in `model.json`; a class of transformers follows."""


class HuggingFace:
    """ViT, DeiT, BEiT and DINOv2 of transformers."""

    needs = ("transformers",)

    def accepts(self, name: str) -> bool:
        return name.startswith(PREFIX) or folder_of(name) is not None

    def check_name(self, name: str) -> None:
        if (folder := folder_of(name)) is None:
            raise BadInput(f"{name} is a class, not a model", "--model FOLDER, written by save_pretrained")
        if (folder / "model.json").is_file():
            raise BadInput(f"{folder} is a model folder of this toolkit", "toolkit.load(FOLDER) reads it in Python")
        create.class_of(config_of(folder), folder)
        for file in weight_files(folder):
            format_of(file, shard=True)

    def class_names(self, name: str) -> tuple[str, ...]:
        folder = folder_of(name)
        return () if folder is None or not (folder / CONFIG).is_file() else tuple(create.class_names(config_of(folder)))

    def build(self, settings: recipe.Model, classes: Sequence[str], seed: int) -> Built:
        self.check_name(settings.name)
        folder = folder_of(settings.name)
        assert folder is not None
        if settings.args or settings.weights_key is not None:
            raise RecipeError("model.args and model.weights_key are for models of timm", f"see {folder / CONFIG}")
        config = config_of(folder)
        kind, labels = create.class_of(config, folder), create.class_names(config)
        args = create.arguments(kind, config)
        check_size(int(str(args["image_size"])), int(str(args["patch_size"])))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = create.build(kind, args, len(labels))
            initial = create.build(kind, args, len(classes))
        if not (files := weights_files(settings)):
            return _built(initial, kind, args)
        without = create.fill(module, read_all(files), folder)
        fresh = without if sorted(labels) == sorted(classes) else {*create.classifiers(module)}
        for name, layer in create.classifiers(module).items():
            setattr(module, name, initial.get_submodule(name) if name in fresh else _reordered(layer, labels, classes))
        return _built(module, kind, args, fresh)

    def skeleton(self, info: ModelInfo) -> nn.Module:
        kind = info.name.removeprefix(PREFIX)
        if kind not in BACKBONES:
            raise UnsupportedModel(f"{info.name} is no supported class", f"supported are {', '.join(BACKBONES)}")
        return create.build(kind, info.args, len(info.classes))

    def owns(self, module: nn.Module) -> bool:
        return isinstance(module, HeadwiseClassifier) or is_classifier(module)

    def check_module(self, module: nn.Module, name: str) -> None:
        """Accept all modules: every classifier is supported."""

    def describe(self, module: nn.Module) -> Built:
        kind = type(module).__name__
        return _built(module, kind, create.arguments(kind, module.config.to_dict()))  # type: ignore[operator, union-attr]

    def image_size(self, module: nn.Module) -> int:
        return self.describe(module).image_size

    def canonicalise(self, module: nn.Module) -> nn.Module:
        return canonicalise(module)

    def canonical_name(self, tensor: str) -> str:
        return tensor

    def parts(self, module: nn.Module) -> Parts:
        assert isinstance(module, HeadwiseClassifier)
        patches, pooling = module.patch_embed, module.pooling
        return Parts(
            patches="patch_embed",
            projection="patch_embed.proj",
            classifiers=tuple(name for name in CLASSIFIERS if getattr(module, name) is not None),
            classifier_norm="fc_norm" if pooling == "mean" else "norm",
            classifier_tokens={"token": 1, "tokens": 2}.get(pooling),
            prefix_tokens=module.num_prefix_tokens,
            patch_size=patches.patch_size[0],
            image_size=patches.img_size[0],
        )

    def example(self, info: ModelInfo, batch: int) -> dict[str, Tensor]:
        return {"images": torch.randn(batch, 3, info.image_size, info.image_size)}

    def resize(self, module: nn.Module, image_size: int) -> dict[str, Setting]:
        assert isinstance(module, HeadwiseClassifier)
        module.set_input_size(image_size)
        return {"image_size": image_size}

    def check_dynamic_size(self, module: nn.Module) -> None:
        raise UnsupportedModel(
            "models of transformers are exported for one image size", "use --image-size with one number"
        )

    def allow_dynamic_size(self, module: nn.Module) -> None:
        self.check_dynamic_size(module)

    def set_width(self, module: nn.Module, width: int) -> None:
        """Change nothing: the module has no such attributes."""


def _built(module: nn.Module, kind: str, args: dict[str, Setting], fresh: Collection[str] = ()) -> Built:
    """fresh: names of source layers whose parameters are initial ones."""
    own = ("head", "head_mean") if kind.startswith("Dinov2") else ("head",)
    layers = {"classifier": own, "cls_classifier": own, "distillation_classifier": ("head_dist",)}
    names = [name for source in sorted(fresh) for name in layers[source]]
    parameters = [f"{name}.{part}" for name in names for part in ("weight", "bias")[: 1 if name == "head_mean" else 2]]
    return Built(module, args, int(str(args["image_size"])), tuple(parameters), f"{PREFIX}{kind}")


def _reordered(layer: nn.Linear, labels: Sequence[str], classes: Sequence[str]) -> nn.Linear:
    """A classifier for `labels`, with its outputs in the order of `classes`."""
    order = torch.tensor([labels.index(name) for name in classes])
    layer.weight, layer.bias = nn.Parameter(layer.weight.detach()[order]), nn.Parameter(layer.bias.detach()[order])
    return layer


PLUGIN: Architecture = HuggingFace()
