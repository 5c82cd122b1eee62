from cankd_mm.models.layers.affinity import dot_product_attention
from cankd_mm.models.layers.can_block import CanBlock

__all__ = ['CanBlock', 'dot_product_attention']
