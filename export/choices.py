"""What an export will be where the recipe leaves it to the target, and what a target cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.export import Abilities, HeadWidths

ONLY_WHAT_IS_READ = "class-token"
"""The rewrite that is made with the graph and not before: see `flat`."""
PAD_HEADS = "pad-heads"
LINEAR_PATCHES = "linear-patches"
PAD_TOKENS = "pad-tokens"
"""Rewrites that the target decides on."""
WITH_PRODUCTS = ("decomposed", "packed")
"""Forms of attention that show its two products."""
STANDARD_SINCE = 23
"""Opset with an `Attention`."""
ANTIALIASED_SINCE = 18
"""Opset whose `Resize` can do what timm does to positions."""


@dataclass(frozen=True)
class Choices:
    opset: int
    attention: str
    precision: str
    """That of the graph."""
    symmetric: bool
    """int8 activations around zero."""
    base: str
    """Precision of what is not quantised."""
    heads: HeadWidths | None
    """Heads are padded to this."""
    only_what_is_read: bool
    """In the last block compute only what the classifier reads."""
    tokens_multiple: int
    """Tokens are padded to a multiple of this."""
    linear_patches: bool
    """The patch embedding is a linear layer of rearranged pixels."""


def choices(name: str, abilities: Abilities, options: recipe.Export) -> Choices:
    """Settings for the target of this name; RecipeError for what it cannot hold, whatever the model."""
    if options.precision not in abilities.precisions:
        raise RecipeError(
            f"{name} has no {options.precision}: {abilities.lacking.get(options.precision, 'it is not made for it')}",
            f"it has {', '.join(abilities.precisions)} (--precision)",
        )
    opset, attention = options.opset or abilities.opset, str(options.attention)
    lowest, highest = abilities.opsets
    if not lowest <= opset <= highest:
        raise RecipeError(f"{name} reads no opset {opset}", f"it reads {lowest} to {highest} (--opset)")
    products = options.precision == "int8" and options.quantize_attention  # which only plain operators show
    if attention == "auto":
        attention = next(
            form
            for form in abilities.attention
            if (form in WITH_PRODUCTS if products else form != "standard" or opset >= STANDARD_SINCE)
        )
    elif products and attention not in WITH_PRODUCTS:
        raise RecipeError(
            f"--quantize-attention needs the two products, which {attention} attention hides in one node",
            "--attention decomposed",
        )
    if attention not in abilities.attention:
        raise RecipeError(
            f"{name} does not run {attention} attention: {abilities.lacking.get(attention, 'it does not know it')}",
            f"it runs {', '.join(abilities.attention)} (--attention)",
        )
    if attention == "standard" and opset < STANDARD_SINCE:
        raise RecipeError(
            f"opset {opset} has no Attention node", f"--opset {STANDARD_SINCE}, or --attention decomposed"
        )
    if options.any_image_size:
        _check_any_size(name, abilities, attention, opset)
    precision = "fp32" if options.precision in abilities.at_load else options.precision
    base = abilities.int8_within if precision == "int8" else precision
    wanted = abilities.custom_heads if attention == "custom" else abilities.fused_heads
    padded = wanted if base in ("fp16", "bf16") and PAD_HEADS in options.rewrites else None
    whole = abilities.all_rows_in_fixed_batches and len(options.batch_size) == 1
    only_what_is_read = ONLY_WHAT_IS_READ in options.rewrites and not whole
    multiple = abilities.tokens_multiple if PAD_TOKENS in options.rewrites else 1
    linear = abilities.linear_patches and LINEAR_PATCHES in options.rewrites
    return Choices(opset, attention, precision, abilities.symmetric, base, padded, only_what_is_read, multiple, linear)


def _check_any_size(name: str, abilities: Abilities, attention: str, opset: int) -> None:
    if not abilities.any_image_size:
        raise RecipeError(f"{name} takes images of one size only", "--image-size with one number, or --onnx")
    if opset < ANTIALIASED_SINCE:
        raise RecipeError(
            f"opset {opset} cannot resample positions while it runs",
            f"--opset {ANTIALIASED_SINCE} or more, or --image-size with one number",
        )
    if attention == "custom":
        raise RecipeError(
            "a custom node's function is for one number of tokens, and so for images of one size",
            "--attention standard, or --image-size with one number",
        )
