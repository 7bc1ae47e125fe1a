"""Resolve export settings against a target's capabilities."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.export.capabilities import Capabilities, HeadWidths

CLASS_TOKEN = "class-token"
"""The rewrite that `flat` applies."""
PAD_HEADS = "pad-heads"
LINEAR_PATCHES = "linear-patches"
PAD_TOKENS = "pad-tokens"
"""Rewrites that are applied only for targets that profit from them."""
FORMS_WITH_PRODUCTS = ("decomposed", "packed")
"""Forms of attention with its two matrix products as separate nodes."""
ATTENTION_OPSET = 23
"""First opset with `Attention`."""
ANTIALIAS_OPSET = 18
"""First opset with antialiased `Resize`, which timm's resampling of positions needs."""


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings of one export, with every default resolved."""

    opset: int
    attention: str
    precision: str
    """Precision of the graph."""
    symmetric: bool
    """Symmetric int8 activations (zero point 0)."""
    base: str
    """Precision of what is not quantised."""
    heads: HeadWidths | None
    """Head widths to pad to."""
    trim_last_block: bool
    """In the last block compute only the tokens that the classifier reads."""
    all_queries: bool
    """Compute all tokens even if the model does not."""
    tokens_multiple: int
    """The number of tokens is padded to a multiple of this."""
    linear_patches: bool
    """The patch embedding is a linear layer on rearranged pixels."""


def resolve_settings(name: str, capabilities: Capabilities, options: recipe.Export) -> ResolvedSettings:
    """Settings for the target of this name; RecipeError for what it does not support, whatever the model."""
    if options.precision not in capabilities.precisions:
        reason = capabilities.unsupported.get(options.precision, "not available for this target")
        raise RecipeError(
            f"{name} does not support {options.precision}: {reason}",
            f"supported: {', '.join(capabilities.precisions)} (--precision)",
        )
    opset, attention = capabilities.opset, str(options.attention)
    lowest, highest = capabilities.opsets
    if not lowest <= opset <= highest:
        raise RecipeError(f"{name} supports opsets {lowest}-{highest}, not {opset}", "choose another --opset")
    products = options.precision == "int8" and options.quantize_attention
    if attention == "auto":
        attention = next(
            form
            for form in capabilities.attention
            if (form in FORMS_WITH_PRODUCTS if products else form != "standard" or opset >= ATTENTION_OPSET)
        )
    elif products and attention not in FORMS_WITH_PRODUCTS:
        raise RecipeError(
            f"--quantize-attention needs separate matrix products, and {attention} attention is a single node",
            "--attention decomposed",
        )
    if attention not in capabilities.attention:
        reason = capabilities.unsupported.get(attention, "not available for this target")
        raise RecipeError(
            f"{name} does not support {attention} attention: {reason}",
            f"supported: {', '.join(capabilities.attention)} (--attention)",
        )
    if attention == "standard" and opset < ATTENTION_OPSET:
        raise RecipeError(
            f"opset {opset} has no Attention node", f"--opset {ATTENTION_OPSET}, or --attention decomposed"
        )
    if options.any_image_size:
        _check_any_size(name, capabilities, attention, opset)
    precision = "fp32" if options.precision in capabilities.applied_at_load else options.precision
    base = capabilities.int8_base if precision == "int8" else precision
    supported_heads = capabilities.custom_heads if attention == "custom" else capabilities.fused_heads
    heads = supported_heads if base in ("fp16", "bf16") and PAD_HEADS in options.rewrites else None
    all_queries = capabilities.fixed_batch_needs_all_queries and len(options.batch_size) == 1
    return ResolvedSettings(
        opset,
        attention,
        precision,
        capabilities.symmetric,
        base,
        heads,
        trim_last_block=CLASS_TOKEN in options.rewrites and not all_queries,
        all_queries=all_queries,
        tokens_multiple=capabilities.tokens_multiple if PAD_TOKENS in options.rewrites else 1,
        linear_patches=capabilities.linear_patches and LINEAR_PATCHES in options.rewrites,
    )


def _check_any_size(name: str, capabilities: Capabilities, attention: str, opset: int) -> None:
    if not capabilities.any_image_size:
        raise RecipeError(f"{name} supports fixed image sizes only", "--image-size with one number, or --onnx")
    if opset < ANTIALIAS_OPSET:
        raise RecipeError(
            f"opset {opset} cannot resample position embeddings at run time",
            f"--opset {ANTIALIAS_OPSET} or higher, or --image-size with one number",
        )
    if attention == "custom":
        raise RecipeError(
            "a custom node is built for a fixed number of tokens, and so for a fixed image size",
            "--attention standard, or --image-size with one number",
        )
