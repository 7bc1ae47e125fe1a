"""timm's ViT, DeiT and BEiT models."""

from __future__ import annotations

import re
from collections.abc import Sequence

import timm
import torch
from timm.layers.format import Format
from timm.models import vision_transformer
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from toolkit import recipe
from toolkit.errors import MissingDependency, RecipeError, UnsupportedModel
from toolkit.models.architectures import Architecture, Built, Parts
from toolkit.models.architectures.timm_vit import patch_embedding
from toolkit.models.architectures.timm_vit.canonical import canonical_name, canonicalise
from toolkit.models.architectures.timm_vit.create import check_name, create, known_models
from toolkit.models.architectures.timm_vit.describe import describe
from toolkit.models.architectures.timm_vit.supported_parts import check_parts
from toolkit.models.architectures.timm_vit.weights import CLASSIFIERS, fill, is_classifier
from toolkit.models.norms import NORMS
from toolkit.models.weight_file import weights_files
from toolkit.records import ModelInfo, Setting

DYNAMIC_SIZE_SINCE = (1, 0, 31)
"""First timm version that traces with dynamic image size."""
WIDTHS = ("embed_dim", "num_features", "head_hidden_size")
"""Attributes of timm's models that hold the number of residual channels."""


class Timm:
    """Vision transformers of timm, by timm's names."""

    def accepts(self, name: str) -> bool:
        return name.partition(".")[0] in known_models()

    def check_name(self, name: str) -> None:
        check_name(name)

    def class_names(self, name: str) -> tuple[str, ...]:
        return ()

    def build(self, settings: recipe.Model, classes: Sequence[str], seed: int) -> Built:
        check_name(settings.name)
        args: dict[str, Setting] = dict(settings.args)
        if settings.image_size is not None and args.setdefault("img_size", settings.image_size) != settings.image_size:
            raise RecipeError(f"model.image_size is {settings.image_size}, model.args.img_size is {args['img_size']}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = create(settings.name, args, len(classes), from_hub=settings.weights == "hub")
        image_size = patch_embedding.image_size(module)
        fresh: tuple[str, ...] = ()
        if settings.weights == "hub" and timm.models.get_pretrained_cfg_value(settings.name, "num_classes") != len(
            classes
        ):
            fresh = tuple(name for name, _ in module.named_parameters() if is_classifier(name))
        elif files := weights_files(settings):
            fresh = fill(module, files[0], settings.weights_key)
        return Built(module, args, image_size, fresh)

    def skeleton(self, info: ModelInfo) -> nn.Module:
        check_name(info.name)
        return create(info.name, info.args, len(info.classes), from_hub=False)

    def owns(self, module: nn.Module) -> bool:
        return isinstance(module, vision_transformer.VisionTransformer | Beit)

    def check_module(self, module: nn.Module, name: str) -> None:
        check_parts(module, name)

    def describe(self, module: nn.Module) -> Built:
        return describe(module)

    def image_size(self, module: nn.Module) -> int:
        return patch_embedding.image_size(module)

    def canonicalise(self, module: nn.Module) -> nn.Module:
        canonicalise(module)
        return module

    def canonical_name(self, tensor: str) -> str:
        return canonical_name(tensor)

    def parts(self, module: nn.Module) -> Parts:
        pooling = getattr(module, "global_pool", None)
        norm = "fc_norm" if isinstance(getattr(module, "fc_norm", None), NORMS) else "norm"
        # A max over tokens comes between `norm` and the classifier: negative gains would turn it into a min.
        foldable = norm == "fc_norm" or pooling not in ("max", "avgmax", "map")
        read = 2 if isinstance(module, VisionTransformerDistilled) else 1
        return Parts(
            patches=patch_embedding.NAME,
            projection=f"{patch_embedding.NAME}.proj",
            classifiers=tuple(name for name in CLASSIFIERS if isinstance(getattr(module, name, None), nn.Linear)),
            classifier_norm=norm if foldable else "",
            classifier_tokens=read if pooling == "token" else None,
            prefix_tokens=int(module.num_prefix_tokens),  # type: ignore[arg-type]
            patch_size=patch_embedding.patch_size(module),
            image_size=patch_embedding.embedding(module).img_size[0],
        )

    def example(self, info: ModelInfo, batch: int) -> dict[str, Tensor]:
        return {"x": torch.randn(batch, 3, info.image_size, info.image_size)}

    def resize(self, module: nn.Module, image_size: int) -> dict[str, Setting]:
        module.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
        return {"img_size": image_size}

    def check_dynamic_size(self, module: nn.Module) -> None:
        if tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < DYNAMIC_SIZE_SINCE:
            raise MissingDependency(
                f"exports with dynamic image size need timm 1.0.31 or newer; {timm.__version__} is installed",
                "pip install 'timm>=1.0.31', or use --image-size with one number",
            )
        if isinstance(module, Beit):
            raise UnsupportedModel(
                "BEiT's relative positions support only one image size", "use --image-size with one number"
            )

    def allow_dynamic_size(self, module: nn.Module) -> None:
        module.dynamic_img_size = True  # type: ignore[assignment]
        patches = patch_embedding.embedding(module)
        patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC

    def set_width(self, module: nn.Module, width: int) -> None:
        for attribute in WIDTHS:
            if hasattr(module, attribute):
                setattr(module, attribute, width)


PLUGIN: Architecture = Timm()
