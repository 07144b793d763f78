"""The paper's table of published variants (arXiv:2012.12877 table 1); imports no torch, because help shows it."""

from typing import Any

# 12 layers, 64 dimensions per head, MLP ratio 4.
_SIZES = {
    "tiny": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}

# The names of facebookresearch/deit models.py:63-184 at 7e160fe, and of timm. Other fields of `DeiTConfig` have its
# defaults, such as 12 layers and patches of 16 pixels.
VARIANTS: dict[str, dict[str, Any]] = {
    f"deit_{size}{'_distilled' if distilled else ''}_patch16_{image_size}": {
        **_SIZES[size],
        "image_size": image_size,
        "use_distillation_token": distilled,
    }
    for size, image_size in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384))
    for distilled in (False, True)
}
